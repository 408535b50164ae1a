//! Runs that are watched: in a terminal, and in a browser through `restage serve`.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use harness::{Sandbox, kill};
use serde_json::Value;

/// Takes about two seconds, tells how far it is, and draws a curve; then another reads what it wrote.
const STEPS: &str = "
stages:
  train: { uses: test/steps, with: { steps: 40, sleep: 50 } }
  after: { uses: test/draw, in: { text: train } }
";

/// A server, and the address that it printed.
struct Server {
    child: Child,
    port: u16,
    token: String,
}

impl Server {
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let mut command = sandbox.command(&[&["serve", "--port", "0"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut address = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut address).expect("it prints where it is");
        let rest = address.trim().strip_prefix("http://127.0.0.1:").expect("at this machine");
        let (port, token) = rest.trim_end_matches('/').split_once('/').expect("a token");
        assert_eq!(token.len(), 32, "{address}");
        Self { port: port.parse().expect("a number"), token: token.to_owned(), child }
    }

    /// A request to its end: status and body.
    fn ask(&self, method: &str, path: &str, host: &str) -> (u16, String) {
        let mut answer = String::new();
        self.open(method, path, host).read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        assert!(
            head.contains("referrer-policy: no-referrer") && head.contains("cache-control: no-store"),
            "{head}"
        );
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
    }

    fn open(&self, method: &str, path: &str, host: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        stream
    }

    /// What lies below the token.
    fn get(&self, place: &str) -> (u16, String) {
        self.ask("GET", &format!("/{}/{place}", self.token), "localhost")
    }

    fn runs(&self) -> Vec<Value> {
        let (status, list) = self.get("runs.json");
        assert_eq!(status, 200, "{list}");
        serde_json::from_str(&list).expect("a list")
    }

    /// Waits until the newest run is as it should be.
    fn newest(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let runs = self.runs();
            if let Some(run) = runs.first().filter(|run| is_so(run)) {
                return run.clone();
            }
            assert!(Instant::now() < deadline, "{runs:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Events of a run as they come: names and data.
    fn events(&self, run: &Value) -> impl Iterator<Item = (String, Value)> + use<> {
        let place = format!("/{}/run/{}/events", self.token, run["id"].as_str().expect("an id"));
        let lines = BufReader::new(self.open("GET", &place, "localhost")).lines().map_while(Result::ok);
        let mut name = String::new();
        lines.filter_map(move |line| {
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            }
            Some((name.clone(), serde_json::from_str(line.strip_prefix("data: ")?).ok()?))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn steps() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.workflow("w.yaml", STEPS);
    // The plugin is built before anything is timed.
    sandbox.json(&["plan", "--json", "w.yaml"]);
    sandbox
}

#[test]
fn only_who_has_the_token_gets_in_and_only_by_the_name_of_this_machine() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    let token = &server.token;
    let other = format!("{}{}", &token[..31], if token.ends_with('0') { '1' } else { '0' });
    for path in ["/", "/runs.json", &format!("/{other}/"), "/run/a/b/", "//", &format!("/x/../{token}/")] {
        let (status, page) = server.ask("GET", path, "127.0.0.1");
        assert_eq!(status, 403, "{path}: {page}");
        assert!(page.contains("lacks the token") && !page.contains(token), "{page}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "", "192.168.1.1"] {
        let (status, page) = server.ask("GET", &format!("/{token}/"), host);
        assert_eq!(status, 403, "{host}: {page}");
    }
    assert_eq!(server.ask("POST", &format!("/{token}/"), "localhost").0, 405);
    let (status, page) = server.get("");
    assert!(status == 200 && page.contains("<h1>Runs</h1>"), "{page}");
    assert_eq!(server.ask("GET", &format!("/{token}"), "localhost").0, 308);
    assert_eq!(server.runs(), [] as [Value; 0], "nothing ran");
    for place in
        ["run/", "run/a/b/", "run/../../", "run/..%2f..%2f/x/", "etc/passwd", "runs", "run/a/b/events"]
    {
        assert_eq!(server.get(place).0, 404, "{place}");
    }
}

#[test]
fn a_run_is_followed_to_its_end() {
    let sandbox = steps();
    sandbox.workflow("other.yaml", "stages: { only: { uses: test/write, with: { text: x } } }");
    sandbox.ran(&["other.yaml"]);
    let (all, one) = (Server::start(&sandbox, &[]), Server::start(&sandbox, &["w.yaml"]));
    assert_eq!((all.runs().len(), one.runs().len()), (1, 0), "of other workflows");
    // Long enough to be seen on a machine that is busy.
    let mut child = sandbox.start(&["run", "w.yaml", "--set", "train.steps=100"], |_| one.runs().len() == 1);
    let run = one.newest(|run| run["status"] == "running");
    assert_eq!((run["workflow"].as_str(), run["actions"].as_u64()), (Some("w.yaml"), Some(2)));
    assert!(run["by"].as_str().is_some_and(|by| by.contains('@')), "{run}");

    // It ends when the run does.
    let events: Vec<(String, Value)> = one.events(&run).collect();
    let of = |name: &str| {
        events.iter().filter(|(event, _)| event == name).map(|(_, data)| data).collect::<Vec<_>>()
    };
    let seen = of("now");
    let steps: Vec<u64> = seen.iter().filter_map(|now| now["doing"][0]["steps"]["done"].as_u64()).collect();
    assert!(steps.is_sorted() && steps.iter().any(|step| (1..100).contains(step)), "{steps:?}");
    let curves: Vec<usize> =
        seen.iter().filter_map(|now| Some(now["curves"][0]["points"].as_array()?.len())).collect();
    assert!(curves.iter().any(|points| *points > 1), "{curves:?}");
    let last = seen.last().expect("some");
    assert_eq!((last["status"].as_str(), last["ran"].as_u64()), (Some("done"), Some(2)), "{last}");
    assert!(!of("results").is_empty());
    assert_eq!(of("end"), [&serde_json::json!({ "status": "done" })]);
    assert!(child.wait().expect("it ends").success());

    // Who comes later is told the same at once.
    assert_eq!(one.events(&run).last().expect("events").0, "end");
    assert_eq!(one.newest(|run| run["status"] == "done")["ran"], 2);
    let id = run["id"].as_str().expect("an id");
    let (status, page) = one.get(&format!("run/{id}/"));
    assert!(status == 200 && page.contains("<main"), "{page}");
    let (_, metrics) = one.get(&format!("run/{id}/metrics.json"));
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics["results"][0]["curves"]["done"]["steps"].as_array().map(Vec::len), Some(100));
    let other = all.runs().into_iter().find(|run| run["workflow"] == "other.yaml").expect("all are listed");
    let id = other["id"].as_str().expect("an id");
    assert_eq!((all.get(&format!("run/{id}/")).0, one.get(&format!("run/{id}/")).0), (200, 404));
}

#[test]
fn a_killed_run_is_shown_as_stopped_and_the_next_one_goes_on() {
    let sandbox = steps();
    let server = Server::start(&sandbox, &[]);
    let long = ["w.yaml", "--set", "train.steps=120"];
    let mut child = sandbox.start(&[&["run"], &long[..]].concat(), |_| sandbox.scratch_has("steps"));
    let run = server.newest(|run| run["status"] == "running");
    kill(child.id());
    child.wait().expect("it was killed");
    let stopped = server.newest(|run| run["status"] == "stopped");
    assert_eq!((&stopped["id"], &stopped["milliseconds"]), (&run["id"], &Value::Null));
    let (event, now) = server.events(&run).next().expect("how it stands");
    assert_eq!((event.as_str(), now["status"].as_str()), ("now", Some("stopped")), "{now}");
    assert_eq!(sandbox.ran(&long), 2);
    let runs = server.runs();
    assert_eq!(runs.iter().map(|run| &run["status"]).collect::<Vec<_>>(), ["done", "stopped"]);
}

#[test]
fn a_terminal_shows_a_few_lines_and_a_file_one_for_each_action() {
    let sandbox = Sandbox::new();
    let workflow = format!("{STEPS}  bad: {{ uses: test/misbehave, with: {{ how: fail }} }}\n");
    sandbox.workflow("w.yaml", &workflow);
    let plain = sandbox.run(&["run", "w.yaml", "--progress", "plain", "--only", "baseline"]);
    assert!(plain.err().contains("  done train in") && !plain.err().contains('\x1b'), "{}", plain.all());
    let quiet = sandbox.run(&["run", "w.yaml", "--quiet", "--force", "after"]);
    assert!(quiet.err().starts_with("FAILED bad: "), "{}", quiet.all());
    assert!(!quiet.err().contains("done after"), "{}", quiet.all());

    // `script` gives a command a terminal.
    let Ok(version) = Command::new("script").arg("--version").output() else {
        println!("skipped: there is no `script`");
        return;
    };
    assert!(version.status.success());
    let binary = sandbox.command(&[]).get_program().to_string_lossy().into_owned();
    let run = format!("stty cols 60 rows 24; exec {binary} run w.yaml --force train");
    let mut command = Command::new("script");
    let own = sandbox.command(&[]);
    command.args(["-qec", &run, "/dev/null"]).current_dir(sandbox.path(""));
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    let shown = command.output().expect("`script` starts");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("FAILED bad: "), "{shown}");
    assert!(!shown.contains("done train in"), "short ones are not told of: {shown}");
    let frames: Vec<&str> = shown.split("\x1b[J").collect();
    assert!(frames.len() > 5, "{shown}");
    assert!(frames.iter().any(|frame| frame.contains("/40 steps") && frame.contains("1 running")), "{shown}");
    // What was drawn is gone when the summary comes: the last frame goes up and writes nothing.
    let last = frames[frames.len() - 2];
    assert!(last.ends_with("A\r"), "{last:?}");
    assert!(frames[frames.len() - 1].contains("failed"), "{shown}");
}
