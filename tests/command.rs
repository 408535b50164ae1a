//! Any program as a stage: what it is given, what it tells, how it ends, and what makes it run again. The scripts here need no
//! more than a bare Python; the worked example is run by `workflows.rs`.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::process::Command;

use harness::{Sandbox, checkout, children_of_all, ends, hosts};
use serde_json::Value;

/// Writes to its output what it was given; what it imports says hello.
const SCRIPT: &str = r#"
import json, os, sys
from lib.words import hello

def main():
    task = json.load(open(os.environ["RESTAGE_TASK"]))
    events = os.fdopen(int(os.environ["RESTAGE_EVENTS_FD"]), "w", buffering=1)
    for step in range(3):
        print(json.dumps({"progress": [step + 1, 3, "steps"]}), file=events)
        print(json.dumps({"metric": "loss", "step": step, "value": 1 / (step + 1)}), file=events)
    print(json.dumps({"log": "nearly there", "level": "warn"}), file=events)
    print("this is no event", file=events)
    print("printed")
    assert json.loads(os.environ["RESTAGE_PARAMS"]) == task["params"]
    assert os.environ["RESTAGE_OUTPUT_TEXT"] == task["outputs"]["text"]
    texts = [open(path + "/text").read() for path in task["inputs"].get("texts", [])]
    words = [hello(task["params"]["name"]), *texts, *sys.argv[1:]]
    words += [os.environ["RESTAGE_DEVICE"], os.environ["OMP_NUM_THREADS"], f"seed {task['seed']}"]
    os.mkdir(task["outputs"]["text"])
    open(task["outputs"]["text"] + "/text", "w").write(" ".join(words))

main()
"#;

const WORKFLOW: &str = "
params: { name: Ada }
stages:
  first: { uses: test/write, with: { text: one } }
  hello:
    uses: command/run
    in: { texts: [first, first] }
    with:
      script: code/main.py
      lock: requirements.txt
      files: [data.csv]
      outputs: { text: any }
      args: [--fast]
      params: { name: \"${params.name}\" }
  after: { uses: test/join, in: { texts: [hello, hello.text] } }
";

/// Whether there is a Python; says so if there is none.
fn python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: there is no python3");
    }
    found
}

fn workflow(sandbox: &Sandbox, rest: &str) {
    sandbox.workflow_of("w.yaml", &["stages/command", "tests/plugin"], rest);
}

fn sandbox(rest: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("code/lib")).expect("a folder");
    sandbox.write("code/main.py", SCRIPT);
    sandbox.write("code/lib/words.py", "def hello(name):\n    return 'hello ' + name\n");
    sandbox.write("code/unrelated.py", "print('nobody imports this')\n");
    sandbox.write("requirements.txt", "numpy==2.0\n");
    sandbox.write("data.csv", "1,2\n");
    workflow(&sandbox, rest);
    sandbox
}

/// The names of what would run, and the first reason.
fn planned(sandbox: &Sandbox, arguments: &[&str]) -> (Vec<String>, String) {
    let plan = sandbox.json(&[&["plan", "--json", "w.yaml"], arguments].concat());
    let actions = plan["actions"].as_array().expect("actions");
    let runs: Vec<&Value> = actions.iter().filter(|action| action["decision"] != "cached").collect();
    let names = runs.iter().map(|action| action["stage"].as_str().expect("a name").to_owned()).collect();
    let told = sandbox.run(&[&["plan", "w.yaml"], arguments].concat()).out();
    let reason = told.lines().find(|line| line.contains(" because ")).unwrap_or_default().trim().to_owned();
    (names, reason.replace(&sandbox.path("").display().to_string(), ""))
}

/// Variants, seeds and places of a stage say the same: it is told once, and how often.
#[test]
fn what_many_actions_warn_of_is_told_once() {
    if !python() {
        return;
    }
    let workflow = WORKFLOW.replace(
        "    uses: command/run\n",
        "    uses: command/run\n    foreach: { name: [Ada, Grace, Mary] }\n",
    );
    let workflow = workflow.replace("${params.name}", "${foreach.name}");
    let sandbox = sandbox(&workflow.replace("  after: {", "  after: { gather: name,"));
    let ended = sandbox.run(&["run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(ended.err().matches("WARN plugin: nearly there").count(), 1, "{}", ended.err());
    assert!(ended.err().contains("said 3 times: nearly there stage=\"hello\""), "{}", ended.err());
}

#[test]
fn a_program_gets_what_a_stage_gets_and_tells_what_a_stage_tells() {
    if !python() {
        return;
    }
    let sandbox = sandbox(WORKFLOW);
    let ended = sandbox.run(&["--log", "plugin=info", "run", "w.yaml"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    assert_eq!(sandbox.text("w.yaml", "hello"), "hello Ada one one --fast cpu 1 seed None");
    for told in ["WARN plugin: nearly there", "INFO plugin: this is no event", "INFO plugin: printed"] {
        assert!(ended.err().contains(told), "{told}: {}", ended.err());
    }
    // Whatever ran since, what it said when it ran is there.
    assert_eq!(sandbox.run(&["run", "w.yaml"]).code(), Some(0));
    let listed = sandbox.run(&["logs", "w.yaml"]).out();
    assert!(listed.contains("hello: 3 lines, 1 warning, in the run of "), "{listed}");
    let said = sandbox.run(&["logs", "w.yaml", "hello"]).out();
    assert!(said.contains(": nearly there") && said.contains("printed"), "{said}");
    let silent = sandbox.run(&["logs", "w.yaml", "after"]).out();
    assert!(silent.contains("nothing was said"), "{silent}");
    let unknown = sandbox.run(&["logs", "w.yaml", "helo"]);
    assert_eq!(unknown.code(), Some(2));
    assert!(unknown.err().contains("did you mean `hello`?"), "{}", unknown.err());
    let runs = sandbox.path("store/runs");
    let journal = Command::new("grep").args(["-rh", "\"metric\""]).arg(runs).output().expect("grep");
    let journal = String::from_utf8_lossy(&journal.stdout).into_owned();
    assert!(journal.contains("\"name\":\"loss\",\"step\":2,\"value\":0.3333333333333333"), "{journal}");
    assert!(!sandbox.path("code/__pycache__").exists(), "nothing is left beside the sources");
}

#[test]
fn what_it_is_made_of_makes_it_run_again_and_nothing_else_does() {
    if !python() {
        return;
    }
    let sandbox = sandbox(WORKFLOW);
    assert_eq!(sandbox.ran(&["w.yaml"]), 3);
    assert_eq!(sandbox.run(&["lock", "w.yaml"]).code(), Some(0));

    // Comments, layout, and what it does not use.
    sandbox.write("code/main.py", &SCRIPT.replace("def main():", "# the work\ndef main():   # here\n"));
    sandbox.write("code/lib/words.py", "# words\n\ndef hello( name ):\n  return 'hello '+name\n");
    sandbox.write("code/unrelated.py", "print('other')\n");
    assert_eq!(planned(&sandbox, &["--locked"]), (vec![], String::new()));

    // A helper, a package that comes into being, the environment, data, the command line, params.
    let words = "def hello(name):\n    return 'good day ' + name\n";
    let cases: [(&str, &str, &[&str], &str); 5] = [
        (
            "code/lib/words.py",
            words,
            &[],
            "1 because the content of code/lib/words.py changed (hello.script.lib/words.py)",
        ),
        (
            "requirements.txt",
            "numpy==2.1\n",
            &[],
            "1 because the content of requirements.txt changed (hello.lock)",
        ),
        ("data.csv", "1,3\n", &[], "1 because the content of data.csv changed (hello.files[0])"),
        (
            "data.csv",
            "1,2\n",
            &["--set", "hello.args=[--slow]"],
            "1 because hello.args [\"--fast\"] -> [\"--slow\"]",
        ),
        (
            "data.csv",
            "1,2\n",
            &["--set", "params.name=Bob"],
            "1 because hello.params.name \"Ada\" -> \"Bob\"",
        ),
    ];
    for (file, text, arguments, reason) in cases {
        let before = std::fs::read_to_string(sandbox.path(file)).expect("a file");
        sandbox.write(file, text);
        assert_eq!(
            planned(&sandbox, arguments),
            (vec!["hello".to_owned(), "after".to_owned()], reason.to_owned())
        );
        sandbox.write(file, &before);
        assert_eq!(planned(&sandbox, &[]).0, Vec::<String>::new(), "{file}: back");
    }
    sandbox.write("code/lib/words.py", words);
    sandbox.write("data.csv", "1,4\n");
    let refused = sandbox.run(&["run", "--locked", "w.yaml"]);
    assert_eq!(refused.code(), Some(2), "{}", refused.all());
    for told in
        ["script `code/main.py`: content changed", "data `data.csv`: content changed", "2 things differ"]
    {
        assert!(refused.err().contains(told), "{told}: {}", refused.err());
    }
    sandbox.write("data.csv", "1,2\n");
    assert_eq!(sandbox.ran(&["w.yaml"]), 2);
    assert!(sandbox.text("w.yaml", "hello").starts_with("good day Ada"));
    // The same words in the end: what comes after is kept.
    sandbox.write("code/lib/words.py", "def hello(name):\n    return f'good day {name}'\n");
    assert_eq!(sandbox.ran(&["w.yaml"]), 1, "early cutoff");
}

#[test]
fn two_clones_in_two_places_share_results() {
    if !python() {
        return;
    }
    let one = sandbox(WORKFLOW);
    assert_eq!(one.ran(&["w.yaml"]), 3);
    let other = sandbox(WORKFLOW);
    let mut command = other.command(&["run", "--json", "w.yaml"]);
    let ended =
        harness::Ended(command.env("RESTAGE_CACHE", one.path("store")).output().expect("the binary starts"));
    assert_eq!(ended.json()["ran"], 0, "{}", ended.all());
}

#[test]
fn a_sweep_varies_its_params_and_its_seed() {
    if !python() {
        return;
    }
    let rest = WORKFLOW.replace("args: [--fast]", "seed: true")
        + "sweep:\n  seeds: [1, 2]\n  ablate:\n    Bob: { set: { hello.params.name: Bob } }\n    unsmoothed: { drop: hello }\n";
    let sandbox = sandbox(&rest);
    let ended = sandbox.json(&["run", "--json", "w.yaml"]);
    // `first`; `hello` of two names and two seeds, each read by one; and `after` without it.
    assert_eq!(ended["ran"], 1 + 4 + 4 + 1);
    let mut texts = sandbox.texts("w.yaml", "hello");
    texts.sort();
    assert_eq!(texts[0], ("Bob".into(), "hello Bob one one cpu 1 seed 1".into()));
    assert_eq!(texts[3], ("baseline".into(), "hello Ada one one cpu 1 seed 2".into()));
}

#[test]
fn how_it_fails_is_told() {
    if !python() {
        return;
    }
    for (code, expected) in [
        ("import sys\nsys.exit('the slide is empty')", "`s.py` ended with status 1:\nthe slide is empty"),
        ("import os\nos.kill(os.getpid(), 11)", "`s.py` was killed by SIGSEGV"),
        (
            "print('done')",
            "`s.py` ended well without writing its output `text`: the folder that RESTAGE_OUTPUT_TEXT names",
        ),
        (
            "import os\nopen(os.environ['RESTAGE_OUTPUT_TEXT'], 'w')",
            "`s.py` wrote its output `text` as a file",
        ),
        ("raise ValueError('x' * 100)", "ValueError: xxxx"),
    ] {
        let sandbox = sandbox(
            "stages:\n  hello: { uses: command/run, with: { script: s.py, outputs: { text: any } } }\n",
        );
        sandbox.write("s.py", code);
        let ended = sandbox.run(&["run", "w.yaml"]);
        assert_eq!(ended.code(), Some(1), "{code}: {}", ended.all());
        assert!(ended.err().contains(expected), "{code}: {}", ended.all());
        assert!(ended.err().matches("the slide is empty").count() <= 1, "told twice: {}", ended.err());
    }
    let sandbox = sandbox(
        "stages:\n  hello: { uses: command/run, with: { program: no-such-thing, outputs: { text: any } } }\n",
    );
    let ended = sandbox.run(&["run", "w.yaml"]);
    assert!(ended.err().contains("cannot start `no-such-thing`"), "{}", ended.all());
}

#[test]
fn what_it_does_not_declare_it_cannot_read() {
    if !python() {
        return;
    }
    let sandbox =
        sandbox("stages:\n  hello: { uses: command/run, with: { script: s.py, outputs: { text: any } } }\n");
    sandbox.write("secret.csv", "1");
    sandbox.write("s.py", &format!("open({:?})", sandbox.path("secret.csv")));
    let ended = sandbox.run(&["run", "w.yaml"]);
    if ended.err().contains("without writing its output") {
        println!("skipped: the kernel has no Landlock");
        return;
    }
    assert!(ended.err().contains("kept from a file that it did not declare"), "{}", ended.all());
    // A module whose name is made up when it runs is not declared either.
    sandbox.write("made_up.py", "x = 1");
    sandbox.write("s.py", "import importlib\nimportlib.import_module('made' + '_up')");
    let ended = sandbox.run(&["run", "w.yaml"]);
    assert!(ended.err().contains("kept from a file that it did not declare"), "{}", ended.all());
}

#[test]
fn it_ends_when_it_is_asked_to_and_goes_on_from_its_checkpoint() {
    if !python() {
        return;
    }
    let code = "
import os, signal, sys, time
kept = os.environ['RESTAGE_SCRATCH'] + '/step'
def stop(*_):
    open(kept, 'w').write('asked to stop')
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
if os.path.exists(kept):
    os.mkdir(os.environ['RESTAGE_OUTPUT_TEXT'])
    open(os.environ['RESTAGE_OUTPUT_TEXT'] + '/text', 'w').write(open(kept).read())
    sys.exit(0)
open(os.environ['RESTAGE_SCRATCH'] + '/begun', 'w')
time.sleep(1000)
";
    let sandbox =
        sandbox("stages:\n  hello: { uses: command/run, with: { script: s.py, outputs: { text: any } } }\n");
    sandbox.write("s.py", code);
    let mut children = Vec::new();
    let mut engine = sandbox.start(&["run", "w.yaml"], |engine| {
        let has_begun = sandbox.scratch_has("begun");
        children = hosts(engine).into_iter().flat_map(children_of_all).collect();
        has_begun
    });
    let interrupted = Command::new("kill").args(["-INT", &engine.id().to_string()]).status();
    assert!(interrupted.is_ok_and(|status| status.success()));
    assert_eq!(engine.wait().expect("the engine was started").code(), Some(1));
    assert!(!children.is_empty() && children.into_iter().all(ends), "the program outlived the run");
    assert_eq!(sandbox.ran(&["w.yaml"]), 1);
    assert_eq!(sandbox.text("w.yaml", "hello"), "asked to stop");
}

#[test]
fn mistakes_are_told_where_they_are() {
    let sandbox = sandbox(
        "
stages:
  a: { uses: command/run, with: { script: missing.py, outputs: { text: any } } }
  b: { uses: command/run, with: { script: code/main.py, outputs: { text: tabel } } }
  c: { uses: command/run, with: { script: code/main.py } }
  d: { uses: command/run, with: { script: code/main.py, outputs: { \"../up\": any } } }
  e: { uses: command/run, with: { outputs: { text: any } } }
  f: { uses: command/run, with: { script: code/main.py, outputs: { text: \"${params.kind}\" } } }
  g: { uses: test/join, in: { texts: a.other } }
  h: { uses: test/thin, in: { table: i.text } }
  i: { uses: command/run, with: { script: code/main.py, outputs: { text: metrics }, param: {} } }
params: { kind: any }
",
    );
    sandbox.run(&["plan", "w.yaml"]);
    let ended = sandbox.run(&["check", "w.yaml"]);
    assert_eq!(ended.code(), Some(2), "{}", ended.all());
    insta::assert_snapshot!("mistakes", ended.err().replace(&sandbox.path("").display().to_string(), ""));
}

/// A script is what the workflow is made of, and no data that somebody has to ask for.
#[test]
fn scripts_go_along_with_a_workflow_that_is_shared() {
    let sandbox = sandbox(WORKFLOW);
    let packed = sandbox.run(&["share", "pack", "w.yaml", "-o", "w.restage"]);
    assert_eq!(packed.code(), Some(0), "{}", packed.all());
    let opened = sandbox.run(&["share", "open", "w.restage", "theirs"]);
    assert_eq!(opened.code(), Some(0), "{}", opened.all());
    for file in ["code/main.py", "code/lib/words.py"] {
        let read = |path: String| std::fs::read_to_string(sandbox.path(&path)).expect("a script");
        assert_eq!(read(format!("theirs/{file}")), read(file.to_owned()), "{}", packed.all());
    }
    assert!(!sandbox.path("theirs/data.csv").exists(), "data goes along when it is asked for");
}

/// Test labels are for who judges; a program that writes more than metrics could hand them on.
#[test]
fn test_labels_do_not_leak_through_a_program() {
    let sandbox = sandbox(
        "
stages:
  section: { uses: test/section }
  judge: { uses: command/run, in: { labels: section.test }, with: { program: x, outputs: { scores: metrics } } }
  leak: { uses: command/run, in: { labels: section.test }, with: { program: x, outputs: { table: table } } }
",
    );
    sandbox.run(&["plan", "w.yaml"]);
    let ended = sandbox.run(&["check", "w.yaml"]);
    assert_eq!(ended.code(), Some(2), "{}", ended.all());
    insta::assert_snapshot!("test_labels", ended.err().replace(&sandbox.path("").display().to_string(), ""));
}

#[test]
fn a_plugin_s_folder_and_one_stage_type_are_listed() {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", "stages: { a: { uses: test/write } }\n");
    let folder = checkout().join("stages/command").display().to_string();
    let listed = sandbox.run(&["plugin", "list", &folder, "command/run"]);
    assert_eq!(listed.code(), Some(0), "{}", listed.all());
    assert!(listed.out().contains("with fits = null  (nothing | train | all)  On which"), "{}", listed.out());
    let only = sandbox.run(&["plugin", "list", "w.yaml", "test/write"]).out();
    assert!(only.contains("\ntest/write") && !only.contains("\ntest/join"), "{only}");
    let json = sandbox.json(&["plugin", "list", "--json", "w.yaml", "test/write"]);
    let stages: Vec<&Value> = json.as_array().into_iter().flatten().map(|plugin| &plugin["stages"]).collect();
    assert!(stages.len() == 1 && stages[0].as_array().is_some_and(|stages| stages.len() == 1), "{json}");
    let wrong = sandbox.run(&["plugin", "list", "w.yaml", "test/wirte"]);
    assert_eq!(wrong.code(), Some(2), "{}", wrong.all());
    assert!(wrong.err().contains("help: did you mean `test/write`?"), "{}", wrong.err());

    let dry = sandbox.run(&["run", "--dry-run", "w.yaml"]);
    assert_eq!(dry.out(), sandbox.run(&["plan", "w.yaml"]).out());
    assert_eq!(sandbox.run(&["show", "w.yaml"]).code(), Some(2), "it has not run");
    let set = sandbox.run(&["run", "w.yaml", "--set", "sweep.seeds=[1]"]);
    assert!(
        set.code() == Some(2) && set.err().contains("`--seeds 0,1,2` takes other seeds"),
        "{}",
        set.all()
    );
}
