//! Of what a run's results are made: code, params, data, machines, by stage.

use std::{collections::BTreeSet, fmt::Write};

use indexmap::IndexMap;

use super::{
    super::outcome::Outcome,
    records::Records,
    text::{counted, escape, listed},
    workflow::stages,
};

pub(super) fn html(outcome: &Outcome, records: &Records) -> String {
    let mut html = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Provenance\">\n<table>\n\
         <caption><span>By stage: the code that ran (a digest of its sources), where, and by whom.</span></caption>\n\
         <thead><tr><th scope=\"col\">stage</th><th scope=\"col\">type</th><th scope=\"col\">code</th>\
         <th scope=\"col\">actions</th><th scope=\"col\">ran on</th><th scope=\"col\">made by</th></tr></thead>\n<tbody>\n",
    );
    for (name, stage) in stages(outcome) {
        let done = || {
            stage.actions.iter().filter_map(|action| Some((*action, outcome.actions.get(*action)?.done()?)))
        };
        let codes: BTreeSet<String> = done().map(|(_, done)| format!("{:.12}", done.past.identity)).collect();
        let devices = joined(done().filter_map(|(action, _)| records.device(action)));
        let makers = joined(done().filter_map(|(action, _)| {
            let host = records.text(action, "host")?;
            Some(match records.text(action, "user") {
                Some(user) => format!("{user}@{host}"),
                None => host.to_owned(),
            })
        }));
        let uses = stage.uses.iter().copied().collect::<Vec<_>>().join(" or ");
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"code\">{}</td><td class=\"number\">{}</td><td>{}</td><td>{}</td></tr>",
            escape(name),
            escape(&uses),
            codes.into_iter().collect::<Vec<_>>().join("<br>"),
            stage.actions.len(),
            escape(&devices),
            escape(&makers),
        );
    }
    html += "</tbody>\n</table>\n</div>\n";
    html += "<details>\n<summary>Params and results of the baseline, stage by stage</summary>\n<div class=\"details\">\n";
    for (name, instances) in of_baseline(outcome) {
        let _ = writeln!(html, "<h3>{}</h3>", escape(name));
        let Some(action) = instances.first().copied() else { continue };
        let Some(done) = outcome.actions.get(action).and_then(|action| action.done()) else {
            html += "<p class=\"soft\">not done</p>\n";
            continue;
        };
        let params =
            records.get(action).and_then(|record| record.get("params")).unwrap_or(&done.past.keyed_params);
        let text = serde_json::to_string_pretty(params).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(escape).collect();
        let _ = writeln!(html, "<pre>{}</pre>", lines.join("\n"));
        html += "<dl class=\"pairs\">\n";
        let _ = writeln!(html, "<dt>action key</dt><dd class=\"code\">{}</dd>", done.key);
        for (port, digest) in &done.outputs {
            let _ = writeln!(html, "<dt>{}</dt><dd class=\"code\">{digest}</dd>", escape(port));
        }
        html += "</dl>\n";
        if instances.len() > 1 {
            let _ = writeln!(
                html,
                "<p class=\"soft\">Shown is the first of {}.</p>",
                counted(instances.len(), "action")
            );
        }
    }
    html += "</div>\n</details>\n";
    html
}

/// Actions of the baseline's stages.
fn of_baseline(outcome: &Outcome) -> IndexMap<&str, Vec<usize>> {
    let mut found: IndexMap<&str, Vec<usize>> = IndexMap::new();
    for instance in outcome.of_variant(&outcome.baseline) {
        let actions = found.entry(&instance.stage).or_default();
        if !actions.contains(&instance.action) {
            actions.push(instance.action);
        }
    }
    found
}

fn joined(names: impl Iterator<Item = String>) -> String {
    let names: BTreeSet<String> = names.collect();
    listed(&names.into_iter().collect::<Vec<_>>())
}
