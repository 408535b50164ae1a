//! A graph as an SVG picture that needs nothing else: light or dark as its reader's screen is.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{
    Edge, Graph, Node, State, escape_xml,
    layout::{self, Layout, Link, Point, Rect, Route, Size},
};

const MARGIN: f64 = 20.0;
/// Between a box's border and its text.
const PADDING: f64 = 14.0;
/// Longer texts are cut; the whole is in the tooltip.
const MAX_COLUMNS: usize = 44;
/// Room for the title, and for the legend.
const BAR: f64 = 36.0;

/// A way to write: its class in the style sheet, and the room that it takes. Fonts differ, so there is room to spare.
struct Script {
    class: &'static str,
    column: f64,
    line: f64,
}

const TITLE: Script = Script { class: "rg-title", column: 10.0, line: 22.0 };
const NAME: Script = Script { class: "rg-name", column: 8.2, line: 18.0 };
const DETAIL: Script = Script { class: "rg-detail", column: 6.6, line: 16.0 };
const LABEL: Script = Script { class: "rg-label", column: 6.2, line: 13.0 };

/// The style sheet. Names begin with `rg-`: a page may hold other things, and its pictures share one sheet.
const STYLE: &str = "\
.rg-graph{font-family:system-ui,sans-serif}
.rg-paper{fill:#fff}
.rg-title{font-size:16px;font-weight:600;fill:#1f2328}
.rg-name{font-size:13.5px;font-weight:600;fill:#1f2328}
.rg-detail{font-size:11.5px;fill:#59636e}
.rg-label{font-size:10.5px;fill:#59636e}
.rg-box{fill:#f6f8fa;stroke:#afb8c1;stroke-width:1.2px}
.rg-cached{fill:#e6f4ea;stroke:#3f8f5f}
.rg-run{fill:#e4effc;stroke:#2f6fd0}
.rg-mayrun{fill:#fdf3da;stroke:#b98209}
.rg-failed{fill:#fde8e4;stroke:#c0392b}
.rg-tocome{fill:#f6f8fa;stroke:#afb8c1}
.rg-edge{fill:none;stroke:#8c959f;stroke-width:1.4px}
.rg-head{fill:#8c959f}
.rg-only{stroke-dasharray:5 4}
@media (prefers-color-scheme:dark){
.rg-paper{fill:#14171c}
.rg-title,.rg-name{fill:#e6e9ee}
.rg-detail,.rg-label{fill:#a3adb8}
.rg-box{fill:#20252c;stroke:#4a535e}
.rg-cached{fill:#14301f;stroke:#4fae77}
.rg-run{fill:#15294a;stroke:#5b98f2}
.rg-mayrun{fill:#35290d;stroke:#d6a02c}
.rg-failed{fill:#3d1712;stroke:#ef7b68}
.rg-tocome{fill:#20252c;stroke:#4a535e}
.rg-edge{stroke:#7b8692}
.rg-head{fill:#7b8692}
}
";

/// Where a picture is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file of its own.
    File,
    /// In a page, which brings the style sheet.
    Page,
}

/// What a picture in a page is made smaller by at most: then its page scrolls.
const SMALLEST: f64 = 0.72;

/// The graph as a picture.
pub(super) fn svg(graph: &Graph, place: Place) -> String {
    let edges: Vec<&Edge> = graph.edges().collect();
    let sizes: Vec<Size> = graph.nodes.iter().map(box_size).collect();
    let links: Vec<Link> =
        edges.iter().map(|edge| Link { from: edge.from, to: edge.to, label: label_size(edge) }).collect();
    let Layout { size, boxes, routes } = layout::layout(&sizes, &links);

    let (key, key_width) = legend(graph);
    let head = if graph.title.is_empty() { 0.0 } else { BAR };
    let foot = if key.is_empty() { 0.0 } else { BAR };
    let width = size.width.max(key_width).max(TITLE.width(&cut(&graph.title))) + 2.0 * MARGIN;
    let height = size.height + head + foot + 2.0 * MARGIN;

    let mut svg = Svg(String::new());
    let least = match place {
        Place::File => String::new(),
        Place::Page => format!(" style=\"min-width:{:.0}px\"", width * SMALLEST),
    };
    let title = if graph.title.is_empty() { "Graph of stages" } else { &graph.title };
    svg.line(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"rg-graph\" role=\"img\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\"{least}>"
    ));
    svg.line(format!("<title>{}</title>", escape_xml(title)));
    if place == Place::File {
        svg.line(format!("<style>\n{STYLE}</style>"));
    }
    svg.line(
        "<defs><marker id=\"rg-arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" \
         markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
         <path class=\"rg-head\" d=\"M0 0.5 8 4 0 7.5 1.5 4Z\"/></marker></defs>",
    );
    svg.line(format!("<rect class=\"rg-paper\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\"/>"));
    if head > 0.0 {
        svg.line(TITLE.write(MARGIN, MARGIN + 14.0, "start", &cut(&graph.title)));
    }
    // A narrow graph stands in the middle of what a wide legend needs.
    let left = MARGIN + (width - 2.0 * MARGIN - size.width) / 2.0;
    svg.line(format!("<g transform=\"translate({left:.1} {:.1})\">", MARGIN + head));
    for (edge, route) in edges.iter().zip(&routes) {
        svg.edge(edge, route, graph);
    }
    for (node, at) in graph.nodes.iter().zip(&boxes) {
        svg.node(node, at);
    }
    for (edge, route) in edges.iter().zip(&routes) {
        svg.label(edge, &route.label);
    }
    svg.line("</g>");
    if foot > 0.0 {
        let top = height - MARGIN - BAR / 2.0;
        svg.line(format!("<g transform=\"translate({MARGIN} {top:.1})\">{key}</g>"));
    }
    svg.line("</svg>");
    svg.0
}

struct Svg(String);

impl Svg {
    fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    fn rect(&mut self, class: &str, at: &Rect) {
        let (x, y, Size { width, height }) = (at.left(), at.top(), at.size);
        self.line(format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"7\"/>"
        ));
    }

    /// Lines of text one below the other, the first one at `y`.
    fn text(&mut self, lines: &[String], script: &Script, x: f64, y: f64) {
        let mut y = y;
        for line in lines {
            self.line(script.write(x, y, "middle", &cut(line)));
            y += script.line;
        }
    }

    fn node(&mut self, node: &Node, at: &Rect) {
        let state = node.state.map(|state| state.word().to_owned());
        let tip = [Some(node.name.clone()), Some(node.detail.clone()), state, in_variants(&node.only_in)];
        self.line(format!("<g><title>{}</title>", tooltip(tip)));
        self.rect(&format!("rg-box{}{}", class(node.state), dashes(&node.only_in)), at);
        let (x, y) = (at.centre.x, at.top() + PADDING / 2.0 + 13.0);
        self.text(std::slice::from_ref(&node.name), &NAME, x, y);
        self.text(&node.lines(), &DETAIL, x, y + DETAIL.line);
        self.line("</g>");
    }

    fn edge(&mut self, edge: &Edge, route: &Route, graph: &Graph) {
        let name = |index: usize| graph.nodes.get(index).map_or("", |node| node.name.as_str());
        let ends = format!("{} to {}", name(edge.from), name(edge.to));
        let tip = tooltip([Some(ends), Some(edge.label.clone()), in_variants(&edge.only_in)]);
        self.line(format!(
            "<path class=\"rg-edge{}\" marker-end=\"url(#rg-arrow)\" d=\"{}\"><title>{tip}</title></path>",
            dashes(&edge.only_in),
            way(route),
        ));
    }

    /// On a piece of paper that hides the edge behind it.
    fn label(&mut self, edge: &Edge, at: &Rect) {
        let lines = edge.lines();
        if !lines.is_empty() {
            self.rect("rg-paper", at);
            self.text(&lines, &LABEL, at.centre.x, at.top() + 10.0);
        }
    }
}

/// The whole of what a picture has no room for.
fn tooltip(parts: impl IntoIterator<Item = Option<String>>) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    escape_xml(&parts.join(" · "))
}

fn in_variants(only_in: &[String]) -> Option<String> {
    (!only_in.is_empty()).then(|| format!("in {}", only_in.join(", ")))
}

impl Script {
    fn width(&self, text: &str) -> f64 {
        text.width() as f64 * self.column
    }

    fn write(&self, x: f64, y: f64, anchor: &str, text: &str) -> String {
        let (class, text) = (self.class, escape_xml(text));
        format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
    }
}

/// At most [`MAX_COLUMNS`], with `…` where something is left out.
fn cut(text: &str) -> String {
    if text.width() <= MAX_COLUMNS {
        return text.to_owned();
    }
    let mut columns = 0;
    let kept = text.chars().take_while(|character| {
        columns += character.width().unwrap_or(1);
        columns < MAX_COLUMNS
    });
    kept.chain(['…']).collect()
}

fn widest(lines: &[String], script: &Script) -> f64 {
    lines.iter().map(|line| script.width(&cut(line))).fold(0.0, f64::max)
}

fn box_size(node: &Node) -> Size {
    let lines = node.lines();
    let width = NAME.width(&cut(&node.name)).max(widest(&lines, &DETAIL));
    let height = NAME.line + DETAIL.line * lines.len() as f64 + PADDING;
    Size { width: (width + 2.0 * PADDING).max(96.0), height }
}

fn label_size(edge: &Edge) -> Size {
    let lines = edge.lines();
    if lines.is_empty() {
        return Size::default();
    }
    Size { width: widest(&lines, &LABEL) + 6.0, height: LABEL.line * lines.len() as f64 }
}

fn class(state: Option<State>) -> &'static str {
    match state {
        None => "",
        Some(State::Cached) => " rg-cached",
        Some(State::Run | State::Ran) => " rg-run",
        Some(State::MayRun | State::Running) => " rg-mayrun",
        Some(State::Failed) => " rg-failed",
        Some(State::ToCome) => " rg-tocome",
    }
}

fn dashes(only_in: &[String]) -> &'static str {
    if only_in.is_empty() { "" } else { " rg-only" }
}

/// Straight down where it passes a layer, a soft turn between two.
fn way(route: &Route) -> String {
    let mut way = format!("M{:.1} {:.1}", route.start.x, route.start.y);
    let mut from = route.start;
    for (enter, leave) in &route.lanes {
        way.push_str(&turn(from, *enter));
        way.push_str(&format!("V{:.1}", leave.y));
        from = *leave;
    }
    way.push_str(&turn(from, route.end));
    way
}

fn turn(from: Point, to: Point) -> String {
    let middle = f64::midpoint(from.y, to.y);
    format!("C{:.1} {middle:.1} {:.1} {middle:.1} {:.1} {:.1}", from.x, to.x, to.x, to.y)
}

/// What colours and dashes mean, as far as the graph has them; and how wide that is.
fn legend(graph: &Graph) -> (String, f64) {
    let mut items: Vec<(&str, &str)> = State::ALL
        .into_iter()
        .filter(|state| graph.nodes.iter().any(|node| node.state == Some(*state)))
        .map(|state| (class(Some(state)), state.word()))
        .collect();
    let nodes = graph.nodes.iter().map(|node| &node.only_in);
    let mut only_in = nodes.chain(graph.edges().map(|edge| &edge.only_in));
    if only_in.any(|variants| !variants.is_empty()) {
        items.push((" rg-only", "only in some variants"));
    }
    let (mut key, mut x) = (String::new(), 0.0);
    for (class, word) in items {
        key.push_str(&format!(
            "<rect class=\"rg-box{class}\" x=\"{x:.1}\" width=\"22\" height=\"14\" rx=\"4\"/>"
        ));
        key.push_str(&DETAIL.write(x + 29.0, 11.0, "start", word));
        x += 29.0 + DETAIL.width(word) + 18.0;
    }
    (key, x)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{diamond, hostile};
    use super::*;

    #[test]
    fn a_diamond_in_svg() {
        insta::assert_snapshot!(svg(&diamond(), Place::File));
    }

    #[test]
    fn every_picture_is_well_formed_and_says_what_the_names_are() {
        for graph in [diamond(), hostile(), Graph::default()] {
            let picture = svg(&graph, Place::File);
            let document = roxmltree::Document::parse(&picture).unwrap();
            let texts: Vec<&str> = document.descendants().filter_map(|element| element.text()).collect();
            for node in &graph.nodes {
                let name = node.name.replace('\u{1}', "\u{fffd}").replace('\n', " ");
                assert!(texts.contains(&name.as_str()), "{name} in {texts:?}");
            }
        }
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let long = "ü".repeat(100);
        assert_eq!(cut(&long).chars().count(), MAX_COLUMNS);
        assert!(cut(&long).ends_with('…'));
        assert_eq!(cut("short"), "short");
    }
}
