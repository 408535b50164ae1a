//! The workflow language from outside: what each word of it makes run.

mod harness;

use std::path::PathBuf;

use harness::Sandbox;
use serde_json::json;

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(variant, text)| ((*variant).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn stages_of_another_file_come_under_a_prefix_with_its_params_set_from_here() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("parts/data")).unwrap();
    sandbox.write("parts/data/there.txt", "t");
    sandbox.write("here.txt", "h");
    sandbox.workflow(
        "parts/inner.yaml",
        "params: { last: '!', text: never }
stages:
  word: { uses: test/write, with: { text: '${params.text}${params.last}', file: data/there.txt } }",
    );
    sandbox.workflow(
        "parts/prep.yaml",
        "params: { text: default, file: data/there.txt }
import: { inner: { path: inner.yaml, params: { text: '<${params.text}>' } } }
stages:
  from: { uses: test/write, with: { text: '${params.text}', file: '${params.file}' } }
  both: { uses: test/join, in: { texts: [from, inner.word] } }",
    );
    sandbox.workflow(
        "w.yaml",
        "params: { text: mine }
import:
  a: { path: parts/prep.yaml, params: { text: '${params.text}', file: here.txt } }
  b: { path: parts/prep.yaml }
stages:
  whole: { uses: test/join, in: { texts: [a.both, b.both.text] }, with: { between: ' ' } }
sweep: { ablate: { other: { set: { a.from.text: x, b.params.text: y } } } }",
    );
    sandbox.ran(&["w.yaml"]);
    // A path is relative to the file in which it is written: here.txt here, data/there.txt there.
    let whole = [("baseline", "mineh+<mine>!t defaultt+<default>!t"), ("other", "xh+<mine>!t yt+<y>!t")];
    assert_eq!(sandbox.texts("w.yaml", "whole"), pairs(&whole));
    assert_eq!(sandbox.ran(&["w.yaml", "--set", "a.inner.params.last=?", "--only", "baseline"]), 3);
    assert_eq!(sandbox.text("w.yaml", "whole"), "mineh+<mine>?t defaultt+<default>!t");
}

#[test]
fn a_stream_of_random_numbers_is_varied_alone() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  a: { uses: test/write, with: { text: t } }
  d: { uses: test/draw, in: { text: a } }
  e: { uses: test/join, in: { texts: [d] } }
sweep:
  seeds: [4, 5, 6]
  streams: [init, batches]
  ablate: { dash: { set: { a.text: '-' } } }";
    sandbox.workflow("w.yaml", workflow);
    // a twice; d and e for two texts and three seeds, and for two streams with two more seeds each.
    assert_eq!(sandbox.ran(&["w.yaml"]), 2 + 2 * (6 + 4));
    let mut of_streams = sandbox.texts("w.yaml", "e");
    of_streams.retain(|(variant, _)| variant.ends_with(" alone"));
    of_streams.sort();
    let expected = [
        ("batches alone", "t#4"),
        ("batches alone", "t#4/batches5"),
        ("batches alone", "t#4/batches6"),
        ("init alone", "t#4"),
        ("init alone", "t#4/init5"),
        ("init alone", "t#4/init6"),
    ];
    assert_eq!(of_streams, pairs(&expected));
    assert_eq!(sandbox.ran(&["w.yaml"]), 0);
    sandbox.workflow("w.yaml", &workflow.replace("init,", "inti,"));
    assert_eq!(sandbox.ran(&["w.yaml", "--only", "dash"]), 0);
    let refused = sandbox.run(&["check", "w.yaml"]);
    assert!(refused.err().contains("no stage draws random numbers from `inti`"), "{}", refused.err());
    assert!(refused.err().contains("did you mean `init`"), "{}", refused.err());
}

#[test]
fn params_refer_to_each_other_and_the_environment_is_declared() {
    let sandbox = Sandbox::new();
    let workflow = "
env: { WORD: none, COUNT: 3 }
params: { greeting: 'hello ${params.name}', name: '${env.WORD}' }
stages:
  a: { uses: test/write, with: { text: '${params.greeting} $${x}' } }
  b: { uses: test/steps, with: { steps: '${env.COUNT}', sleep: 0 } }
";
    sandbox.workflow("w.yaml", workflow);
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    assert_eq!(sandbox.text("w.yaml", "a"), "hello none ${x}");
    let mut command = sandbox.command(&["run", "--json", "w.yaml"]);
    let output = command.env("WORD", "you").env("COUNT", "2").output().unwrap();
    let ran: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ran["ran"], 2, "both read what changed");
    assert_eq!(sandbox.text("w.yaml", "a"), "hello you ${x}");
    assert_eq!(sandbox.text("w.yaml", "b"), "0\n1\n", "a number in the environment is a number");
}

const SWEEP: &str = "
stages:
  a: { uses: test/write, with: { text: x } }
  b: { uses: test/join, in: { texts: [a, a] }, with: { between: '-' } }
  c: { uses: test/join, in: { texts: [b, b] }, with: { between: '+' } }
";

fn variants(sweep: &str) -> Vec<(String, String)> {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", &format!("{SWEEP}{sweep}"));
    sandbox.ran(&["w.yaml"]);
    sandbox.texts("w.yaml", "c")
}

#[test]
fn a_grid_combines_all_with_all_except_what_is_excluded() {
    let found = variants(
        "sweep:
  grid: { b.between: [1, 2], c.between: [3, 4] }
  exclude: [{ b.between: '2', c.between: '3' }]"
            .replace("[1, 2]", "['1', '2']")
            .replace("[3, 4]", "['3', '4']")
            .as_str(),
    );
    let expected = [
        ("baseline", "x-x+x-x"),
        ("b.between = 1, c.between = 3", "x1x3x1x"),
        ("b.between = 1, c.between = 4", "x1x4x1x"),
        ("b.between = 2, c.between = 4", "x2x4x2x"),
    ];
    assert_eq!(found, pairs(&expected));
}

#[test]
fn an_exclusion_compares_with_what_is_written_too() {
    let found =
        variants("sweep:\n  grid: { c.between: [p, q] }\n  exclude: [{ b.between: '-', c.between: p }]");
    assert_eq!(found, pairs(&[("baseline", "x-x+x-x"), ("c.between = q", "x-xqx-x")]));
}

#[test]
fn variants_that_differ_late_share_everything_before() {
    let sandbox = Sandbox::new();
    let values: Vec<String> = (0..39).map(|value| format!("'{value}'")).collect();
    let workflow = format!(
        "
stages:
  a: {{ uses: test/write, with: {{ text: x }} }}
  b: {{ uses: test/join, in: {{ texts: [a, a] }} }}
  late: {{ uses: test/draw, in: {{ text: b }} }}
sweep:
  seeds: [0, 1, 2, 3, 4]
  grid: {{ late.after: [{}] }}",
        values.join(", ")
    );
    sandbox.workflow("w.yaml", &workflow);
    let plan = sandbox.json(&["plan", "--json", "w.yaml"]);
    assert_eq!(plan["variants"].as_array().unwrap().len(), 40);
    assert_eq!(plan["actions"].as_array().unwrap().len(), 2 + 40 * 5);
}

#[test]
fn a_zip_pairs_and_random_draws_the_same_again() {
    let found = variants("sweep:\n  zip: { b.between: [p, q], c.between: [r, s] }");
    let expected = [
        ("baseline", "x-x+x-x"),
        ("b.between = p, c.between = r", "xpxrxpx"),
        ("b.between = q, c.between = s", "xqxsxqx"),
    ];
    assert_eq!(found, pairs(&expected));
    let random = |samples: usize| {
        let over = "{ b.between: [p, q, r, s, t], c.between: [p, q, r, s, t] }";
        variants(&format!("sweep:\n  random: {{ samples: {samples}, seed: 5, over: {over} }}"))
    };
    let (few, more) = (random(3), random(6));
    assert_eq!(few[..], more[..4], "more samples keep the first ones");
    assert_eq!(more.len(), 7);
}

#[test]
fn the_baseline_may_be_a_variant() {
    let sandbox = Sandbox::new();
    let sweep = "sweep: { baseline: plus, ablate: { plus: { set: { b.between: + } }, star: { set: { b.between: '*' } } } }";
    sandbox.workflow("w.yaml", &format!("{SWEEP}{sweep}"));
    let plan = sandbox.json(&["plan", "--json", "w.yaml"]);
    assert_eq!(plan["variants"], json!(["as written", "plus", "star"]));
    assert_eq!(plan["baseline"], "plus");
    let only = sandbox.json(&["plan", "--json", "w.yaml", "--only", "baseline"]);
    assert_eq!(only["variants"], json!(["plus"]));
    sandbox.workflow(
        "some.yaml",
        &format!("{SWEEP}{}", sweep.replace("{ baseline", "{ only: [star, baseline], baseline")),
    );
    let variants =
        |more: &[&str]| sandbox.json(&[&["plan", "--json", "some.yaml"], more].concat())["variants"].clone();
    assert_eq!(variants(&[]), json!(["plus", "star"]), "those that the file asks for, in the sweep's order");
    assert_eq!(
        variants(&["--only", "as written"]),
        json!(["as written"]),
        "the command line asks for others"
    );
    sandbox.ran(&["w.yaml"]);
    assert_eq!(sandbox.text("w.yaml", "c"), "x+x+x+x", "`show` shows the baseline");
}

#[test]
fn the_same_paths_set_values_in_the_file_and_on_the_command_line() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  a: { uses: test/write, foreach: { name: [p, q] }, with: { text: '${foreach.name}' } }
  b: { uses: test/join, in: { texts: a }, gather: name }
  c: { uses: test/join, in: { texts: b } }
";
    sandbox.workflow("w.yaml", workflow);
    let set = |path: &str| {
        sandbox.ran(&["w.yaml", "--set", path]);
        sandbox.text("w.yaml", "c")
    };
    assert_eq!(set("b.between=/"), "p/q");
    assert_eq!(set("b.with.between=:"), "p:q");
    assert_eq!(set("a.foreach.name=[r, s, t]"), "r+s+t");
    assert_eq!(set("c.in.texts=[b, b]"), "p+q+p+q");
    // How a stage is run changes no result, so nothing runs again.
    sandbox.ran(&["w.yaml"]);
    assert_eq!(sandbox.ran(&["w.yaml", "--set", "b.resources.cpus=2", "--set", "b.timeout=5m"]), 0);
}

#[test]
fn a_stage_that_fails_is_tried_again_and_one_that_takes_too_long_is_stopped() {
    let sandbox = Sandbox::new();
    let workflow = "
stages:
  a: { uses: test/fail-first, with: { times: 2 }, retries: 2 }
  slow: { uses: test/write, with: { sleep: 60000 }, timeout: 200ms }
";
    sandbox.workflow("w.yaml", workflow);
    let ended = sandbox.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(1));
    assert!(ended.err().contains("again a: not yet (1 more if this fails too)"), "{}", ended.err());
    assert!(ended.err().contains("done a in"), "{}", ended.err());
    let told = "FAILED slow: it took longer than its timeout of 200ms, and was stopped";
    assert!(ended.err().contains(told), "{}", ended.err());
}

#[test]
fn a_data_file_that_changes_while_a_stage_runs_gives_no_result() {
    let sandbox = Sandbox::new();
    sandbox.write("data.txt", "first");
    sandbox.workflow("w.yaml", "stages:\n  a: { uses: test/write, with: { file: data.txt, sleep: 4000 } }\n");
    let mut child = sandbox.start(&["run", "w.yaml"], |_| running(&sandbox));
    sandbox.write("data.txt", "other");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let plan = sandbox.run(&["plan", "--all", "w.yaml"]);
    assert!(plan.out().contains("a: run: never run before"), "{}", plan.all());
}

/// Whether an action was handed to a host.
fn running(sandbox: &Sandbox) -> bool {
    let within =
        |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    within(sandbox.path("store/runs")).flat_map(within).any(|run| {
        std::fs::read_to_string(run.join("journal.jsonl")).is_ok_and(|text| text.contains("\"running\""))
    })
}

#[test]
fn the_plan_groups_by_cause_and_why_tells_one_in_full() {
    let sandbox = Sandbox::new();
    sandbox.write("data.txt", "d");
    let workflow = "
stages:
  a: { uses: test/write, with: { text: x, file: data.txt } }
  b: { uses: test/join, in: { texts: [a, a] }, with: { between: '-' } }
  c: { uses: test/draw, in: { text: b } }
  d: { uses: test/join, in: { texts: c } }
sweep:
  seeds: [1, 2]
  ablate: { plus: { set: { b.between: + } } }
";
    sandbox.workflow("w.yaml", workflow);
    let hide = |text: &str| {
        let text = text.replace(&sandbox.path("").display().to_string(), "…/");
        let digits = |word: &str| word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit());
        let words = |line: &str| {
            line.split_inclusive([' ', ',', ')', '('])
                .map(|word| {
                    let bare = word.trim_end_matches([' ', ',', ')', '(']);
                    if digits(bare) { word.replace(bare, "<digest>") } else { word.to_owned() }
                })
                .collect::<String>()
        };
        text.lines().filter(|line| !line.contains("made by")).map(words).collect::<Vec<_>>().join("\n")
    };
    let out = |arguments: &[&str]| hide(&sandbox.run(arguments).out());
    let mut told = vec![out(&["plan", "w.yaml"])];
    sandbox.ran(&["w.yaml"]);
    told.push(out(&["plan", "w.yaml"]));
    told.push(out(&["plan", "w.yaml", "--set", "a.text=y"]));
    told.push(out(&["plan", "w.yaml", "--set", "b.between=/", "--force", "d"]));
    sandbox.write("data.txt", "e");
    told.push(out(&["plan", "w.yaml", "--seeds", "1,3"]));
    told.push(out(&["why", "w.yaml", "d@plus", "--seeds", "1"]));
    told.push(out(&["why", "w.yaml", "a"]));
    insta::assert_snapshot!(told.join("\n\n"));
    let json = sandbox.json(&["why", "--json", "w.yaml", "c@plus"]);
    assert_eq!(json[0]["decision"], "may run");
    assert_eq!(json[0]["chain"], json!(["c", "b", "a"]));
}

#[test]
fn every_reason_is_told_when_it_is_the_reason() {
    let sandbox = Sandbox::new();
    sandbox.write("data.txt", "d");
    sandbox.workflow("w.yaml", "stages:\n  a: { uses: test/write, with: { text: x, file: data.txt } }\n  b: { uses: test/join, in: { texts: [a, a] } }\n");
    let why = |arguments: &[&str]| -> Vec<String> {
        let plan = sandbox.json(&[&["plan", "--json", "w.yaml"], arguments].concat());
        let reasons = |action: &serde_json::Value| {
            let words =
                action["reasons"].as_array().unwrap().iter().map(|reason| reason["why"].as_str().unwrap());
            words.collect::<Vec<_>>().join("+")
        };
        plan["actions"].as_array().unwrap().iter().map(reasons).collect()
    };
    assert_eq!(why(&[]), ["new", "new"]);
    sandbox.ran(&["w.yaml"]);
    assert_eq!(why(&[]), ["", ""]);
    assert_eq!(why(&["--set", "a.text=y"]), ["param", "upstream"]);
    assert_eq!(why(&["--set", "a.text=y", "--set", "b.between=/"]), ["param", "param"], "it cannot be known");
    assert_eq!(why(&["--force", "b"]), ["", "forced"]);
    assert_eq!(why(&["--set", "b.in.texts=[a]"]), ["", "input"]);
    assert_eq!(why(&["--set", "a.uses=test/draw", "--set", "a.with={}"])[0], "stage-type");
    sandbox.write("data.txt", "e");
    assert_eq!(why(&[]), ["file", "upstream"]);
    sandbox.write("data.txt", "d");

    // What somebody does to the store: mended where a good copy is left, done without where nobody reads it.
    let artifact = |stage: &str| {
        let shown = sandbox.json(&["show", "--json", "w.yaml", stage]);
        std::path::PathBuf::from(shown[0]["path"].as_str().unwrap())
    };
    let (of_a, of_b) = (artifact("a"), artifact("b"));
    std::fs::rename(of_b.join("text"), sandbox.path("aside")).unwrap();
    assert_eq!(why(&[]), ["", ""], "the store has the file still");
    let files = sandbox.path("store/v1/files");
    std::fs::rename(&files, sandbox.path("files")).unwrap();
    std::fs::remove_file(of_b.join("text")).unwrap();
    assert_eq!(why(&[]), ["", "damaged"]);
    std::fs::rename(sandbox.path("files"), &files).unwrap();
    std::fs::rename(of_a.parent().unwrap(), sandbox.path("artifact")).unwrap();
    assert_eq!(why(&[]), ["", ""], "its reader is there");
    std::fs::rename(sandbox.path("artifact"), of_a.parent().unwrap()).unwrap();
    std::fs::rename(of_b.parent().unwrap(), sandbox.path("artifact")).unwrap();
    assert_eq!(why(&[]), ["", "gone"]);
    std::fs::rename(sandbox.path("artifact"), of_b.parent().unwrap()).unwrap();
    assert_eq!(why(&[]), ["", ""]);
    let plan = sandbox.json(&["plan", "--json", "w.yaml"]);
    let key = plan["actions"][1]["key"].as_str().unwrap().to_owned();
    let record = sandbox.path(&format!("store/v1/actions/{}/{}/record.json", &key[..2], &key[2..]));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    assert_eq!(why(&[]), ["", "unreadable"]);
    std::fs::write(&record, text).unwrap();
    std::fs::remove_dir_all(record.parent().unwrap()).unwrap();
    assert_eq!(why(&[]), ["", "forgotten"]);
}

#[test]
fn a_forced_stage_runs_again_and_its_readers_are_kept() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", SWEEP);
    sandbox.ran(&["w.yaml"]);
    let ended = sandbox.run(&["run", "w.yaml", "--force", "a"]);
    assert!(ended.out().contains("1 ran, 2 reused"), "{}", ended.all());
    assert!(ended.out().contains("re-ran, same result: 2 stages kept"), "{}", ended.out());
}

#[test]
fn two_runs_and_two_workflows_are_compared() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", SWEEP);
    sandbox.workflow("v.yaml", &SWEEP.replace("'-'", "'='").replace("  c:", "  d:"));
    sandbox.ran(&["w.yaml"]);
    assert!(sandbox.run(&["diff", "w.yaml"]).err().contains("no two runs"));
    sandbox.ran(&["w.yaml", "--set", "b.between=/"]);
    let out = sandbox.run(&["diff", "w.yaml"]).out();
    assert!(out.contains("b.between") && out.contains("artifacts: 1 the same, 2 different (b, c)"), "{out}");
    let status = sandbox.json(&["status", "--json", "w.yaml"]);
    let [now, before] = [0, 1].map(|run| status[run]["run"].as_str().unwrap().to_owned());
    let diff = sandbox.json(&["diff", "--json", &before, &now]);
    assert_eq!(diff["params"], json!([{ "what": "b.between", "a": "\"-\"", "b": "\"/\"", "times": 1 }]));
    let out = sandbox.run(&["diff", "w.yaml", "v.yaml"]).out();
    for part in ["b.between", "\"-\"", "\"=\"", " c ", " d "] {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(sandbox.run(&["diff", &now, &now]).out().contains("no difference"));
    assert_eq!(sandbox.run(&["diff", &now, "store"]).code(), Some(2), "a folder that is no run");
}

#[test]
fn a_graph_folds_variants() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", &format!("{SWEEP}sweep: {{ ablate: {{ no b: {{ drop: b }} }} }}"));
    let graph = |format: &str| sandbox.run(&["graph", "w.yaml", "--format", format]).out();
    assert!(graph("dot").starts_with("digraph"), "{}", graph("dot"));
    assert!(graph("svg").starts_with("<svg"), "{}", graph("svg"));
    let mermaid = graph("mermaid");
    assert!(mermaid.contains("only in no b") && mermaid.contains("only in baseline"), "{mermaid}");
}
