//! A workflow as a graph of stages, and its drawings: Graphviz, Mermaid, SVG.

mod dot;
mod layout;
mod mermaid;
mod svg;

/// What is drawn. An edge of a node that is not there is left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) title: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
}

/// A stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Its stage type.
    pub(crate) detail: String,
    /// One more line, e.g. how many actions it has; may be empty.
    pub(crate) note: String,
    /// What the plan or the run says of its actions, if there is one.
    pub(crate) state: Option<State>,
    /// Variants that have it, if not all do.
    pub(crate) only_in: Vec<String>,
}

/// What a plan says of a stage, or what became of it in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Cached,
    Run,
    MayRun,
    Ran,
    Running,
    Failed,
    /// It will run, or would have if nothing had failed before it.
    ToCome,
}

/// An input that reads an output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    /// Index of the stage that writes.
    pub(crate) from: usize,
    /// Index of the stage that reads.
    pub(crate) to: usize,
    /// Names of the ports.
    pub(crate) label: String,
    /// Variants that have it, if not all do: it is drawn dashed.
    pub(crate) only_in: Vec<String>,
}

impl State {
    const ALL: [Self; 7] =
        [Self::Cached, Self::Run, Self::MayRun, Self::Ran, Self::Running, Self::Failed, Self::ToCome];

    fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Run => "to run",
            Self::MayRun => "may run",
            Self::Ran => "ran",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::ToCome => "not yet done",
        }
    }
}

impl Graph {
    /// In Graphviz' language.
    pub(crate) fn dot(&self) -> String {
        dot::dot(self)
    }

    /// As a flowchart for Markdown.
    pub(crate) fn mermaid(&self) -> String {
        mermaid::mermaid(self)
    }

    /// As a picture that needs nothing else.
    pub(crate) fn svg(&self) -> String {
        svg::svg(self, svg::Place::File)
    }

    /// The same for a page that has the `rg-` classes in its own style sheet, and lets it be scrolled.
    pub(crate) fn svg_for_page(&self) -> String {
        svg::svg(self, svg::Place::Page)
    }

    /// The edges between nodes that are there.
    fn edges(&self) -> impl Iterator<Item = &Edge> {
        let there = 0..self.nodes.len();
        self.edges.iter().filter(move |edge| there.contains(&edge.from) && there.contains(&edge.to))
    }
}

impl Node {
    /// What stands below the name.
    fn lines(&self) -> Vec<String> {
        [self.detail.clone(), self.note.clone(), only(&self.only_in)]
            .into_iter()
            .filter(|line| !line.is_empty())
            .collect()
    }
}

impl Edge {
    /// What stands beside it.
    fn lines(&self) -> Vec<String> {
        let only = match self.only_in.len() {
            0..=2 => only(&self.only_in),
            // Names of some would say little and make the picture twice as wide; its tooltip has all.
            many => format!("only in {many} variants"),
        };
        [self.label.clone(), only].into_iter().filter(|line| !line.is_empty()).collect()
    }
}

/// `only in a, b`; two names say which, all of them would hide the graph.
fn only(variants: &[String]) -> String {
    match variants {
        [] => String::new(),
        [one] => format!("only in {one}"),
        [one, two] => format!("only in {one}, {two}"),
        [one, two, rest @ ..] => format!("only in {one}, {two} and {} more", rest.len()),
    }
}

/// Text for XML, Graphviz' labels among it. Characters that XML cannot hold at all become U+FFFD.
pub(super) fn escape_xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\r' | '\t' => escaped.push(' '),
            _ if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn node(name: &str, detail: &str, state: Option<State>) -> Node {
        Node { name: name.into(), detail: detail.into(), state, ..Node::default() }
    }

    pub(super) fn edge(from: usize, to: usize, label: &str) -> Edge {
        Edge { from, to, label: label.into(), only_in: vec![] }
    }

    /// Two ways from one stage to another, one of them only in a variant.
    pub(super) fn diamond() -> Graph {
        let nodes = vec![
            node("prep.counts", "visium/normalize", Some(State::Cached)),
            Node { note: "x 12 actions".into(), ..node("genes", "ssl/pretrain", Some(State::Run)) },
            Node { only_in: vec!["image only".into()], ..node("image", "ssl/pretrain", None) },
            node("regions", "classify/probe", Some(State::MayRun)),
        ];
        let edges = vec![
            edge(0, 1, "table"),
            edge(0, 2, "table"),
            edge(1, 3, "model"),
            Edge { only_in: vec!["image only".into(), "both".into()], ..edge(2, 3, "model") },
        ];
        Graph { title: "quickstart".into(), nodes, edges }
    }

    /// Names that mean something to each of the formats.
    pub(super) fn hostile() -> Graph {
        let nodes = vec![
            node("a \"quoted\"] <b>&amp; \\N", "x'y`z`#35;|{}", None),
            node("größer als ü—漢字\u{1}\nzweite", "", Some(State::Run)),
        ];
        Graph {
            title: "t: \"a\" --> </title><b>".into(),
            nodes,
            edges: vec![edge(0, 1, "p|\"q\" -->"), edge(0, 7, "nowhere")],
        }
    }

    #[test]
    fn many_variants_are_counted_instead_of_named() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
        assert_eq!(only(&names[..2]), "only in a, b");
        assert_eq!(only(&names), "only in a, b and 2 more");
    }
}
