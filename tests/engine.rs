//! What runs again and what does not, decisions told before, exit codes, mistakes told all at once.

mod harness;

use harness::Sandbox;

const CHAIN: &str = "
params: { between: '-' }
stages:
  a: { uses: test/write, with: { text: x, file: data.txt } }
  b: { uses: test/join, in: { texts: [a, a] }, with: { between: '${params.between}' } }
  c: { uses: test/draw, in: { text: b } }
sweep:
  seeds: [1, 2]
  ablate:
    plus: { set: { b.between: + } }
    dash: { set: { b.between: '-' } }
    weights: { vary: { b.weight: [2, 3] } }
";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("data.txt", "first");
    sandbox.workflow("w.yaml", CHAIN);
    sandbox
}

#[test]
fn nothing_changed_runs_nothing() {
    let sandbox = sandbox();
    // a once; b for baseline (= dash), plus, weights 2 and 3; c for each of the two texts and seeds: b's weight
    // changes its key but not its bytes, so c is cut off.
    assert_eq!(sandbox.ran(&["w.yaml"]), 1 + 4 + 2 * 2);
    assert_eq!(sandbox.text("w.yaml", "c"), "xf-xf#1");
    let again = sandbox.run(&["run", "w.yaml"]);
    assert_eq!(again.code(), Some(0));
    assert!(again.out().contains("nothing had to run"), "{}", again.all());
}

#[test]
fn equal_actions_are_merged() {
    let sandbox = sandbox();
    let plan = sandbox.json(&["plan", "--json", "w.yaml"]);
    let actions = plan["actions"].as_array().unwrap();
    let b: Vec<_> = actions.iter().filter(|action| action["stage"] == "b").collect();
    assert_eq!(b.len(), 4, "`dash` is the baseline by another name");
    assert_eq!(b[0]["variants"], serde_json::json!(["baseline", "dash"]));
    let c = actions.iter().filter(|action| action["stage"] == "c").count();
    assert_eq!(c, 4 * 2, "one for each distinct b and seed");
}

#[test]
fn an_ablation_by_its_name_is_every_value_that_it_varies() {
    let sandbox = sandbox();
    let plan = sandbox.json(&["plan", "--json", "w.yaml", "--only", "weights", "--only", "plus"]);
    let actions = plan["actions"].as_array().unwrap().iter();
    let b: Vec<_> = actions.filter(|action| action["stage"] == "b").map(|b| &b["variants"][0]).collect();
    assert_eq!(b, ["plus", "weights = 2", "weights = 3"]);
    let none = sandbox.run(&["plan", "w.yaml", "--only", "weight"]);
    assert_eq!(none.code(), Some(2));
    assert!(none.err().contains("did you mean `weights`?"), "{}", none.all());
}

#[test]
fn until_a_stage_runs_what_leads_to_it_and_the_rest_later() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  section: { uses: test/write, with: { text: s } }
  clean: { uses: test/join, in: { texts: [section] } }
  model: { uses: test/join, in: { texts: [clean] } }
  drawing: { uses: test/join, in: { texts: [section, section] } }
  score: { uses: test/noise }
sweep:
  metric: score.last
  ablate:
    dirty: { set: { model.in.texts: [section] } }
";
    sandbox.workflow("w.yaml", workflow);
    let stages = |arguments: &[&str]| -> Vec<String> {
        let decisions = sandbox.decisions(&[&["w.yaml"], arguments].concat());
        decisions.into_iter().map(|(stage, decision)| format!("{stage} {decision}")).collect()
    };
    assert_eq!(stages(&["--until", "clean"]), ["section run", "clean run"]);
    assert_eq!(stages(&["--until", "drawing", "--until", "clean"]).len(), 3);
    let until = sandbox.run(&["run", "w.yaml", "--until", "model"]);
    assert_eq!(until.code(), Some(0), "{}", until.all());
    // `dirty` has no need of what is clean, and nothing is measured yet.
    assert_eq!(stages(&["--until", "model", "--only", "dirty"]), ["section cached", "model cached"]);
    assert!(!until.out().contains("score"), "{}", until.out());
    assert_eq!(sandbox.ran(&["w.yaml", "--until", "model"]), 0);
    assert_eq!(sandbox.ran(&["w.yaml"]), 2, "the drawing and the score");
    let none = sandbox.run(&["run", "w.yaml", "--until", "clena"]);
    assert_eq!(none.code(), Some(2));
    assert!(none.err().contains("did you mean `clean`?"), "{}", none.all());
}

#[test]
fn a_file_of_what_comes_later_may_come_later() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  export: { uses: test/write, with: { text: s } }
  import: { uses: test/write, with: { file: trained.txt } }
";
    sandbox.workflow("w.yaml", workflow);
    let now = sandbox.run(&["run", "w.yaml", "--until", "export"]);
    assert_eq!(now.code(), Some(0), "{}", now.all());
    for early in [&["run", "w.yaml"][..], &["run", "w.yaml", "--until", "import"], &["check", "w.yaml"]] {
        let early = sandbox.run(early);
        assert_eq!(early.code(), Some(2), "{}", early.all());
        assert!(early.err().contains("there is no file or folder"), "{}", early.all());
    }
    sandbox.write("trained.txt", "weights");
    assert_eq!(sandbox.ran(&["w.yaml"]), 1);
}

#[test]
fn a_late_param_reruns_late_stages_only_and_back_again_runs_nothing() {
    let sandbox = sandbox();
    sandbox.ran(&["w.yaml", "--only", "baseline"]);
    let changed = ["w.yaml", "--only", "baseline", "--set", "params.between=/"];
    let decisions = sandbox.decisions(&changed);
    assert_eq!(decisions[0], ("a".into(), "cached".into()));
    assert_eq!(decisions[1], ("b".into(), "run".into()));
    assert_eq!(decisions[2], ("c".into(), "may run".into()));
    let plan = sandbox.run(&[&["plan", "--all"], &changed[..]].concat());
    assert!(plan.out().contains(r#"b: run: b.between "-" -> "/""#), "{}", plan.out());
    assert!(plan.out().contains("c seed 1: may run: reads b, which will run"), "{}", plan.out());
    assert_eq!(sandbox.ran(&changed), 3);
    assert_eq!(sandbox.ran(&["w.yaml", "--only", "baseline"]), 0, "the old results are still there");
}

#[test]
fn an_early_change_reruns_everything_after_it_unless_it_makes_no_difference() {
    let sandbox = sandbox();
    sandbox.ran(&["w.yaml", "--only", "baseline"]);
    sandbox.write("data.txt", "finally");
    let decisions: Vec<String> = sandbox
        .decisions(&["w.yaml", "--only", "baseline"])
        .into_iter()
        .map(|(_, decision)| decision)
        .collect();
    assert_eq!(decisions, ["run", "may run", "may run", "may run"]);
    assert_eq!(sandbox.ran(&["w.yaml", "--only", "baseline"]), 1, "same first character: early cutoff");
    sandbox.write("data.txt", "second");
    assert_eq!(sandbox.ran(&["w.yaml", "--only", "baseline"]), 4);
    sandbox.write("data.txt", "first");
    assert_eq!(sandbox.ran(&["w.yaml", "--only", "baseline"]), 0, "back again");
}

#[test]
fn what_is_gone_runs_again_only_if_something_needs_it() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  a: { uses: test/write, with: { text: x } }
  b: { uses: test/join, in: { texts: [a, a] } }
  c: { uses: test/join, in: { texts: [b, b] } }
  d: { uses: test/join, in: { texts: [a, a, a] } }
";
    sandbox.workflow("w.yaml", workflow);
    sandbox.ran(&["w.yaml"]);
    let remove = |stage: &str| {
        let list = sandbox.json(&["show", "--json", "w.yaml", stage]);
        let tree = std::path::Path::new(list[0]["path"].as_str().unwrap());
        std::fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    };
    let words = || sandbox.decisions(&["w.yaml"]).into_iter().map(|(_, word)| word).collect::<Vec<_>>();
    remove("a");
    remove("b");
    assert_eq!(words(), ["cached"; 4], "whatever reads them is there");
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    let c = sandbox.text("w.yaml", "c");
    remove("c");
    assert_eq!(words(), ["run", "may run", "may run", "may run"]);
    assert_eq!(sandbox.ran(&["w.yaml"]), 3, "all that it takes to make c; d is there");
    assert_eq!(sandbox.text("w.yaml", "c"), c);
}

#[test]
fn a_dry_run_on_a_fresh_project_tells_the_whole_plan() {
    let sandbox = sandbox();
    let decisions = sandbox.decisions(&["w.yaml", "--only", "baseline"]);
    assert_eq!(decisions.len(), 4);
    assert!(decisions.iter().all(|(_, decision)| decision == "run"), "{decisions:?}");
    assert!(sandbox.run(&["plan", "w.yaml"]).out().contains("never run before"));
}

#[test]
fn mapped_stages_are_gathered_in_order() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  part: { uses: test/write, foreach: { name: [p, q, r] }, with: { text: '${foreach.name}!' } }
  each: { uses: test/join, in: { texts: part } }
  whole: { uses: test/join, in: { texts: each }, gather: name }
";
    sandbox.workflow("w.yaml", workflow);
    assert_eq!(sandbox.ran(&["w.yaml"]), 7);
    assert_eq!(sandbox.text("w.yaml", "whole"), "p!+q!+r!");
}

#[test]
fn a_port_that_takes_one_artifact_refuses_gathered_ones() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  part: { uses: test/write, foreach: { name: [p, q] }, with: { text: '${foreach.name}' } }
  one: { uses: test/draw, in: { text: part }, gather: name }
";
    sandbox.workflow("w.yaml", workflow);
    let ended = sandbox.run(&["check", "w.yaml"]);
    assert_eq!(ended.code(), Some(2));
    assert!(ended.err().contains("takes one artifact, not 2 gathered ones"), "{}", ended.err());
}

#[test]
fn a_dropped_stage_hands_its_input_on() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  a: { uses: test/write, with: { text: x } }
  b: { uses: test/join, in: { texts: [a, a] } }
  c: { uses: test/join, in: { texts: b }, with: { between: '' } }
sweep: { ablate: { no b: { drop: b } } }
";
    sandbox.workflow("w.yaml", workflow);
    sandbox.ran(&["w.yaml"]);
    let texts: Vec<String> = sandbox.texts("w.yaml", "c").into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["x+x", "xx"]);
}

#[test]
fn the_last_run_lists_every_artifact() {
    let sandbox = sandbox();
    assert_eq!(sandbox.run(&["show", "w.yaml"]).code(), Some(2), "it has not run yet");
    sandbox.ran(&["w.yaml"]);
    let list = sandbox.json(&["show", "--json", "--all", "w.yaml"]);
    let list = list.as_array().unwrap();
    // a and b per variant, c per variant and seed; dash and baseline are variants of their own.
    assert_eq!(list.len(), 5 * (1 + 1 + 2));
    for artifact in list {
        assert_eq!(artifact["digest"].as_str().unwrap().len(), 64);
        assert!(std::path::Path::new(artifact["path"].as_str().unwrap()).is_dir());
        for key in ["stage", "variant", "seed", "port"] {
            assert!(artifact.get(key).is_some(), "{key}");
        }
    }
}

#[test]
fn ten_mistakes_are_told_in_one_go_with_their_places() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  a: { uses: test/wirte, with: { text: x } }
  b: { uses: test/join, in: { texts: aa } }
  c: { uses: test/join, in: { text: a } }
  d: { uses: test/write, with: { txet: x } }
  e: { uses: test/write, with: { sleep: soon } }
  f: { uses: test/write, withs: {} }
  g: { uses: test/write, with: { text: '${params.nothing}' } }
  h: { uses: test/write, with: { file: nowhere.txt } }
  i: { uses: test/draw, in: { text: d.out } }
sweep: { metric: evaluate, seeds: [-1] }
";
    sandbox.workflow("w.yaml", workflow);
    let ended = sandbox.run(&["check", "--json", "w.yaml"]);
    assert_eq!(ended.code(), Some(2), "{}", ended.all());
    let json = ended.json();
    let told: Vec<String> = json["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            let [line, column, message, help] =
                ["line", "column", "message", "help"].map(|key| &problem[key]);
            let message = message.as_str().unwrap().replace(&sandbox.path("").display().to_string(), "…/");
            format!("{line}:{column} {message} ({})", help.as_str().unwrap_or_default())
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
    assert!(told.len() >= 10);
    let drawn = sandbox.run(&["check", "w.yaml"]).err();
    assert!(
        drawn.contains(&format!("{} mistakes found", told.len())) && drawn.contains("did you mean"),
        "{drawn}"
    );
}

#[test]
fn a_stage_has_the_threads_that_it_asks_for_or_those_that_are_idle() {
    for (resources, threads) in [("", 3), (", resources: { cpus: 1 }", 1), (", resources: { cpus: 2 }", 2)] {
        let sandbox = Sandbox::new();
        let stage = format!("stages:\n  a: {{ uses: test/write, with: {{ text: x }}{resources} }}\n");
        sandbox.workflow("w.yaml", &stage);
        sandbox.ran(&["w.yaml", "--cpus", "3"]);
        let why = sandbox.run(&["why", "w.yaml", "a"]);
        assert!(why.out().contains(&format!("on {threads} thread")), "{resources}: {}", why.all());
    }
}

/// The features that a variant does without are not computed for it, nor is a head that it does not evaluate; a drawing is, which
/// nobody was to read.
#[test]
fn a_variant_runs_what_its_metrics_and_drawings_need() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  section: { uses: test/section }
  clean: { uses: test/thin, in: { table: section.table } }
  all: { uses: test/thin, in: { table: clean } }
  features: { uses: test/embed, in: { table: all } }
  smooth: { uses: test/thin, in: { table: all } }
  others: { uses: test/embed, in: { table: smooth } }
  drawing: { uses: test/thin, in: { table: all }, with: { seldom: 3 } }
  model: { uses: test/train, in: { features: features, labels: section.train }, with: { steps: 1 } }
  evaluate: { uses: test/evaluate, in: { model: model, labels: section.test } }
sweep:
  metric: evaluate.score
  seeds: [0]
  ablate:
    cleaned: { set: { clean.seldom: 1 } }
    others: { set: { model.in.features: others } }
    others, cleaned: { set: { clean.seldom: 2, model.in.features: others } }
";
    sandbox.workflow("w.yaml", workflow);
    let of = |variant: &str, arguments: &[&str]| -> Vec<String> {
        let plan = sandbox.json(&[&["plan", "--json", "w.yaml"], arguments].concat());
        let actions = plan["actions"].as_array().unwrap().iter();
        let own = actions.filter(|action| action["variants"].as_array().unwrap().contains(&variant.into()));
        let mut names: Vec<String> = own.map(|action| action["stage"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let written = of("baseline", &[]);
    let names = ["all", "clean", "drawing", "evaluate", "features", "model", "others", "section", "smooth"];
    assert_eq!(written, names, "the workflow as written runs whole");
    let without =
        |gone: &[&str]| -> Vec<&str> { names.into_iter().filter(|name| !gone.contains(name)).collect() };
    for arguments in [&[][..], &["--only", "cleaned", "--only", "others, cleaned"]] {
        assert_eq!(of("cleaned", arguments), without(&["others", "smooth"]));
        assert_eq!(of("others, cleaned", arguments), without(&["features"]));
    }
    assert_eq!(of("others", &[]), without(&["features"]));

    // Without metrics there is no telling what is needed.
    sandbox.workflow("w.yaml", &workflow.replace("  metric: evaluate.score\n", ""));
    assert_eq!(of("others, cleaned", &[]), names);
}
