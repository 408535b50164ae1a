//! What is told of every kind of mistake, as it is drawn; and that hostile files are told in no time.
//!
//! `mistakes/*.txt` hold the mistakes by topic. A case begins with `### title`; then come `# args:` (more arguments
//! of `restage check`), `# run:` (another file than `w.yaml`), `# env: NAME=VALUE`, `# whole` (the file as it is,
//! without the two first lines that all have); then the file `w.yaml`, and others after `--- file: NAME`. `→` is a tab.

#![expect(clippy::unwrap_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use harness::{Ended, Sandbox, checkout};

/// What never ends, or takes ever longer, takes longer than this; a busy machine does not.
const AT_ONCE: Duration = Duration::from_secs(30);

/// What is put before a workflow: lines 1 and 2.
const HEAD: &str = "restage: 1\nplugins: [{ path: ../plugin }]\n";

/// A folder with the plugin beside the cases; its store has the plugin built.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink(checkout().join("tests/plugin"), sandbox.path("plugin")).unwrap();
    write(&sandbox.path("right"), "w.yaml", format!("{HEAD}stages: {{ a: {{ uses: test/write }} }}"));
    let ended = check(&sandbox, "right", &["w.yaml"], &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    sandbox
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
}

/// `restage check` in a folder of the sandbox.
fn check(sandbox: &Sandbox, folder: &str, arguments: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = sandbox.command(&[&["check"], arguments].concat());
    command.current_dir(sandbox.path(folder)).envs(env.iter().copied()).env_remove("RESTAGE_TEST_UNSET");
    Ended(command.output().unwrap())
}

/// One mistake.
#[derive(Default)]
struct Case<'a> {
    title: &'a str,
    arguments: Vec<&'a str>,
    run: &'a str,
    env: Vec<(&'a str, &'a str)>,
    whole: bool,
    files: Vec<(String, String)>,
}

fn case(text: &str) -> Case<'_> {
    let (title, mut rest) = text.split_once('\n').unwrap();
    let mut case = Case { title, run: "w.yaml", ..Case::default() };
    while let Some((line, after)) = rest.split_once('\n') {
        if let Some(arguments) = line.strip_prefix("# args: ") {
            case.arguments = arguments.split(' ').collect();
        } else if let Some(run) = line.strip_prefix("# run: ") {
            case.run = run;
        } else if let Some(env) = line.strip_prefix("# env: ") {
            case.env.extend(env.split_once('='));
        } else if line == "# whole" {
            case.whole = true;
        } else {
            break;
        }
        rest = after;
    }
    for file in format!("--- file: w.yaml\n{rest}").split("--- file: ").skip(1) {
        let (name, body) = file.split_once('\n').unwrap();
        let head = if case.whole || body.starts_with("restage:") { "" } else { HEAD };
        let body = format!("{head}{}\n", body.trim_end_matches('\n').replace('→', "\t"));
        case.files.push((name.to_owned(), body));
    }
    case
}

/// What is told of a case.
fn told(sandbox: &Sandbox, folder: &str, case: &Case<'_>, wrong: &mut Vec<String>) -> String {
    for (name, text) in &case.files {
        write(&sandbox.path(folder), name, if text == "\n" { "" } else { text });
    }
    let start = Instant::now();
    let ended = check(sandbox, folder, &[&[case.run], &*case.arguments].concat(), &case.env);
    assert!(start.elapsed() < AT_ONCE, "`{}` takes {:?}", case.title, start.elapsed());
    if ended.code() != Some(2) {
        wrong.push(format!("`{}` is not refused: {}", case.title, ended.all()));
    }
    let root = sandbox.path("").display().to_string();
    let text = ended.err().replace(&root, "/").replace(&format!("/{folder}/"), "/here/");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("### {}\n{}\n", case.title, lines.join("\n").trim_matches('\n'))
}

#[test]
fn every_kind_of_mistake_is_told_so_that_it_can_be_mended() {
    let sandbox = sandbox();
    let mut topics: Vec<_> = std::fs::read_dir(checkout().join("tests/mistakes")).unwrap().collect();
    topics.sort_by_key(|topic| topic.as_ref().unwrap().path());
    let mut kinds = 0;
    let mut wrong = Vec::new();
    let mut titles = std::collections::BTreeSet::new();
    for topic in topics {
        let path = topic.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = format!("\n{}", std::fs::read_to_string(&path).unwrap());
        let mut drawn = String::new();
        for (index, text) in text.split("\n### ").skip(1).enumerate() {
            let text = format!("{text}\n");
            let case = case(&text);
            assert!(titles.insert(case.title.to_owned()), "`{}` is there twice", case.title);
            drawn += &told(&sandbox, &format!("{name}-{index}"), &case, &mut wrong);
            drawn.push('\n');
            kinds += 1;
        }
        insta::assert_snapshot!(name, drawn);
    }
    assert!(kinds >= 100, "{kinds}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks a file, which must end in a clear error within a second, and gives what is told.
fn at_once(name: &str, text: impl AsRef<[u8]>) -> String {
    let sandbox = Sandbox::new();
    sandbox.write_bytes("w.yaml", text.as_ref());
    let timed = || {
        let start = Instant::now();
        (sandbox.run(&["check", "w.yaml"]), start.elapsed())
    };
    let (mut ended, mut took) = timed();
    // The machine may have been busy with something else.
    for _ in 0..10 {
        if took < Duration::from_secs(1) {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
        (ended, took) = timed();
    }
    assert_eq!(ended.code(), Some(2), "{name}: {}", ended.all());
    assert!(took < Duration::from_secs(1), "{name} takes {took:?}");
    let told = ended.err();
    assert!(told.len() < 100_000, "{name} tells {} bytes", told.len());
    assert!(told.lines().all(|line| line.chars().count() < 400), "{name}: {told}");
    told
}

fn repeated(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

#[test]
fn hostile_files_are_told_at_once() {
    let laughs = "restage: 1\nname: &a0 ha\n".to_owned()
        + &repeated(40, |n| format!("k{}: &a{} [{}]\n", n + 1, n + 1, format!("*a{n}, ").repeat(9)));
    let stages =
        |stage: &dyn Fn(usize) -> String| format!("restage: 1\nstages:\n{}", repeated(10_000, stage));
    let files: [(&str, String, &str); 14] = [
        ("100,000 brackets", "[".repeat(100_000), "nested more deeply"),
        ("100,000 brackets as a value", format!("restage: {}", "[".repeat(100_000)), "nested more deeply"),
        ("100,000 dashes", "- ".repeat(100_000), "nested more deeply"),
        ("billion laughs", laughs, "stand for more values"),
        ("10 MB", "restage: 1\n# ".to_owned() + &"x".repeat(10 << 20), "longer than 1 MiB"),
        ("a line of 1 MB", format!("restage: [{}]", "'a', ".repeat(200_000)), "not 1"),
        ("a key of 1 MB", format!("restage: 1\n{}: 1", "k".repeat(1_000_000)), "a name is too long"),
        ("a text of 1 MB", format!("restage: 1\nstages: {}", "k".repeat(1_000_000)), "not a mapping"),
        (
            "90,000 keys",
            "restage: 1\n".to_owned() + &repeated(90_000, |n| format!("k{n}:\n")),
            "more in w.yaml",
        ),
        (
            "90,000 keys twice",
            "restage: 1\n".to_owned() + &repeated(90_000, |n| format!("k{}:\n", n / 2)),
            "twice",
        ),
        (
            "many wrong stages",
            stages(&|n| format!("  s{n}: {{ uses: a/b, in: {{ x: z{n} }} }}\n")),
            "there is no stage",
        ),
        (
            "mistakes in one line",
            format!("restage: 1\nstages: {{ {} }}", repeated(10_000, |n| format!("s{n}: {{ u: a }}, "))),
            "mistakes found",
        ),
        (
            "a long chain of params",
            format!(
                "restage: 1\nparams:\n{}",
                repeated(30_000, |n| format!("  p{n}: ${{params.p{}}}\n", n + 1))
            ),
            "in a row",
        ),
        (
            "a long path",
            format!(
                "restage: 1\nstages: {{ a: {{ uses: a/b }} }}\nsweep: {{ grid: {{ a{}: [1] }} }}",
                ".b".repeat(500)
            ),
            "more deeply",
        ),
    ];
    for (name, text, expected) in files {
        let told = at_once(name, text);
        assert!(told.contains(expected), "{name}: {told}");
    }
}

#[test]
fn params_that_double_each_other_do_not_fill_the_memory() {
    let doubled = |value: &dyn Fn(usize) -> String| {
        format!(
            "restage: 1\nstages: {{ a: {{ uses: a/b }} }}\nparams:\n  p0: {}\n{}",
            "x".repeat(100),
            repeated(60, |n| { format!("  p{}: {}\n", n + 1, value(n)) })
        )
    };
    let text = doubled(&|n| format!("'${{params.p{n}}}${{params.p{n}}}'"));
    let list = doubled(&|n| format!("['${{params.p{n}}}', '${{params.p{n}}}']"));
    for text in [text, list] {
        assert!(at_once("doubled", text).contains("bring in more"));
    }
}

#[test]
fn bytes_that_are_no_text_and_files_that_are_none_are_refused() {
    let told = at_once("not UTF-8", b"restage: 1\nname: \xe9t\xe9\n");
    assert!(told.contains("not UTF-8") && told.contains("line 2"), "{told}");
    let told = at_once("NUL", b"restage: 1\nname: a\0b\n");
    assert!(told.contains("w.yaml:2:"), "{told}");
    let sandbox = Sandbox::new();
    assert!(std::process::Command::new("mkfifo").arg(sandbox.path("pipe")).status().unwrap().success());
    let import = |path: &str| format!("restage: 1\nimport: {{ a: {{ path: {path} }} }}");
    sandbox.write("zero.yaml", &import("/dev/zero"));
    sandbox.write("pipe.yaml", &import("pipe"));
    for (file, expected) in [
        ("/dev/zero", "a device or a pipe"),
        ("pipe", "a device or a pipe"),
        (".", "a folder"),
        ("zero.yaml", "zero.yaml:2:"),
        ("pipe.yaml", "pipe.yaml:2:"),
    ] {
        let start = Instant::now();
        let ended = sandbox.run(&["check", file]);
        assert!(start.elapsed() < AT_ONCE, "{file}");
        assert_eq!(ended.code(), Some(2), "{file}");
        assert!(ended.err().contains(expected), "{file}: {}", ended.err());
    }
}

#[test]
fn a_wrong_param_of_a_mapped_stage_is_told_once() {
    let sandbox = sandbox();
    let values: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let workflow = format!(
        "{HEAD}stages:\n  a: {{ uses: test/write, foreach: {{ x: [{}] }}, with: {{ sleep: soon, txet: '${{foreach.x}}', text: '${{foreach.x}}-' }} }}\n",
        values.join(", ")
    );
    write(&sandbox.path("mapped"), "w.yaml", workflow);
    let start = Instant::now();
    let ended = check(&sandbox, "mapped", &["w.yaml", "--json"], &[]);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let told = ended.json()["diagnostics"].as_array().unwrap().len();
    assert_eq!(told, 2, "{}", ended.all());
}

#[test]
fn json_tells_all_and_the_terminal_the_first_of_a_file() {
    let sandbox = sandbox();
    let keys: String = (0..50).map(|n| format!("k{n}: 1\n")).collect();
    write(&sandbox.path("many"), "w.yaml", format!("{HEAD}stages: {{ a: {{ uses: test/write }} }}\n{keys}"));
    let ended = check(&sandbox, "many", &["w.yaml", "--json"], &[]);
    assert_eq!(ended.json()["diagnostics"].as_array().unwrap().len(), 50);
    let told = check(&sandbox, "many", &["w.yaml"], &[]).err();
    assert_eq!(told.matches("unknown key").count(), 20);
    assert!(told.contains("and 30 more in w.yaml") && told.contains("50 mistakes found"), "{told}");
}
