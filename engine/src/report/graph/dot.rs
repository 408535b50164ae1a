//! A graph in the language of Graphviz.

use super::{Graph, Node, State, escape_xml};

/// The graph for `dot`.
pub(super) fn dot(graph: &Graph) -> String {
    let mut lines = vec![
        "digraph {".to_owned(),
        format!("  graph [label={}, labelloc=t, fontname=\"Helvetica\"]", quoted(&graph.title)),
        "  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=12]".into(),
        "  edge [fontname=\"Helvetica\", fontsize=10, color=\"#6e7781\", fontcolor=\"#57606a\"]".into(),
    ];
    for (index, node) in graph.nodes.iter().enumerate() {
        lines.push(format!("  n{index} [label=<{}>{}]", label(node), look(node)));
    }
    for edge in graph.edges() {
        let style = if edge.only_in.is_empty() { "" } else { ", style=dashed" };
        let label = quoted(&edge.lines().join("\n"));
        lines.push(format!("  n{} -> n{} [label={label}{style}]", edge.from, edge.to));
    }
    lines.push("}\n".into());
    lines.join("\n")
}

/// A label in Graphviz' HTML, where a name can be bold.
fn label(node: &Node) -> String {
    // `\N` would become the node's id.
    let escape = |text: &str| escape_xml(text).replace('\\', "\\\\");
    let mut label = format!("<b>{}</b>", escape(&node.name));
    for line in node.lines() {
        label.push_str(&format!("<br/><font point-size=\"10\">{}</font>", escape(&line)));
    }
    label
}

fn look(node: &Node) -> String {
    let (fill, stroke) = match node.state {
        None | Some(State::ToCome) => ("#f6f8fa", "#8c959f"),
        Some(State::Cached) => ("#e6f4ea", "#3f8f5f"),
        Some(State::Run | State::Ran) => ("#e4effc", "#2f6fd0"),
        Some(State::MayRun | State::Running) => ("#fdf3da", "#b98209"),
        Some(State::Failed) => ("#fde8e4", "#c0392b"),
    };
    let dashed = if node.only_in.is_empty() { "" } else { ", style=\"rounded,filled,dashed\"" };
    format!(", fillcolor=\"{fill}\", color=\"{stroke}\"{dashed}")
}

/// A quoted string: backslashes would be Graphviz' escapes, a newline is one.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{diamond, hostile};
    use super::*;

    #[test]
    fn a_diamond_in_graphviz() {
        insta::assert_snapshot!(dot(&diamond()));
    }

    #[test]
    fn names_cannot_break_out_of_graphviz() {
        insta::assert_snapshot!(dot(&hostile()));
    }
}
