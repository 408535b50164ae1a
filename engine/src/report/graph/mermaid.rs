//! A graph as a Mermaid flowchart, which Markdown viewers draw.

use super::{Graph, State};

/// The graph for a Markdown block marked `mermaid`.
pub(super) fn mermaid(graph: &Graph) -> String {
    let mut lines = Vec::new();
    if !graph.title.is_empty() {
        // The front matter is YAML, and so is a JSON string.
        let title = serde_json::Value::from(graph.title.as_str());
        lines.extend(["---".to_owned(), format!("title: {title}"), "---".into()]);
    }
    lines.push("flowchart TD".into());
    for (index, node) in graph.nodes.iter().enumerate() {
        let below: String = node.lines().iter().map(|line| format!("<br/>{}", escape(line))).collect();
        let class = node.state.map_or("plain", class);
        lines.push(format!("  n{index}[\"<b>{}</b>{below}\"]:::{class}", escape(&node.name)));
    }
    for edge in graph.edges() {
        let arrow = if edge.only_in.is_empty() { "-->" } else { "-.->" };
        let label: Vec<String> = edge.lines().iter().map(|line| escape(line)).collect();
        let label = if label.is_empty() { String::new() } else { format!("|\"{}\"|", label.join("<br/>")) };
        lines.push(format!("  n{} {arrow}{label} n{}", edge.from, edge.to));
    }
    // Colours that are readable on a light page and on a dark one.
    lines.push("  classDef plain fill:#f6f8fa,stroke:#8c959f,color:#1f2328".into());
    lines.push("  classDef cached fill:#e6f4ea,stroke:#3f8f5f,color:#1f2328".into());
    lines.push("  classDef run fill:#e4effc,stroke:#2f6fd0,color:#1f2328".into());
    lines.push("  classDef mayrun fill:#fdf3da,stroke:#b98209,color:#1f2328".into());
    if graph.nodes.iter().any(|node| node.state == Some(State::Failed)) {
        lines.push("  classDef failed fill:#fde8e4,stroke:#c0392b,color:#1f2328".into());
    }
    let only = graph.nodes.iter().enumerate().filter(|(_, node)| !node.only_in.is_empty());
    lines.extend(only.map(|(index, _)| format!("  style n{index} stroke-dasharray:5 4")));
    lines.join("\n") + "\n"
}

fn class(state: State) -> &'static str {
    match state {
        State::Cached => "cached",
        State::Run | State::Ran => "run",
        State::MayRun | State::Running => "mayrun",
        State::Failed => "failed",
        State::ToCome => "plain",
    }
}

/// Text within quotes: Mermaid's own entities for what ends a string, HTML, or begins its Markdown.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '#' | '&' | '<' | '>' | '`' | '\\' => {
                escaped.push_str(&format!("#{};", u32::from(character)));
            }
            _ if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests::{diamond, hostile};
    use super::*;

    #[test]
    fn a_diamond_in_mermaid() {
        insta::assert_snapshot!(mermaid(&diamond()));
    }

    #[test]
    fn names_cannot_break_out_of_mermaid() {
        insta::assert_snapshot!(mermaid(&hostile()));
    }
}
