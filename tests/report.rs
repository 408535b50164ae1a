//! The report of a real run: one file that asks for nothing, in which a browser draws everything.

#![expect(clippy::expect_used, clippy::panic, reason = "a test tells what is wrong by panicking")]

mod harness;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use harness::{Sandbox, checkout};
use serde_json::Value;

/// A name that would run, were it not text.
const HOSTILE: &str = "</script><img src=x onerror=alert(1)>";

/// Clusters of the same spots, judged as well.
const CLUSTERS: &str = "
  clusters: { uses: classify/cluster, in: { features: gene_features }, with: { n_clusters: 4, dims: 8 } }
  agreement: { uses: classify/evaluate-clusters, in: { predictions: clusters.predictions, labels: section.labels }, gather: section }

sweep:
  metric: [evaluate.macro_f1, evaluate.accuracy, agreement.ari]
";

/// The quickstart, short, with a variant that is called like an attack.
fn quickstart(sandbox: &Sandbox) -> String {
    let text = std::fs::read_to_string(checkout().join("workflows/quickstart.yaml")).expect("the quickstart");
    let stages = checkout().join("stages").display().to_string();
    let text = text.replace("../stages", &stages).replace("expression only:", &format!("\"{HOSTILE}\":"));
    let sweep = "\nsweep:\n  metric: [evaluate.macro_f1, evaluate.accuracy]\n";
    assert!(text.contains(sweep), "the quickstart's sweep");
    let text = text.replace(sweep, CLUSTERS);
    sandbox.write("quickstart.yaml", &text).display().to_string()
}

#[test]
fn a_run_becomes_a_page_and_figures_and_tables() {
    let sandbox = Sandbox::new();
    let workflow = quickstart(&sandbox);
    sandbox.json(&["run", "--json", &workflow, "--set", "params.epochs=2", "--seeds", "0,1"]);
    let figures = ["--figures", "figures", "--figure-format", "svg,png", "--dpi", "144"];
    let ended = sandbox.run(&[["report", &workflow, "-o", "report.html"].as_slice(), &figures].concat());
    assert_eq!(ended.code(), Some(0), "{}", ended.all());
    let page = std::fs::read_to_string(sandbox.path("report.html")).expect("a report");
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("http:") && !page.contains("https:"));
    assert!(!page.contains("<img") && page.matches("<script").count() == 2, "its data and its own script");
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    for part in ["ablation", "values", "tissue", "confusion", "curves", "time", "workflow", "provenance"] {
        assert!(page.contains(&format!("<section id=\"{part}\"")), "{part}");
    }
    let figures = std::fs::read_dir(sandbox.path("figures")).expect("figures");
    let mut names: Vec<String> =
        figures.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    for name in names.iter().filter(|name| name.ends_with(".svg")) {
        let file = sandbox.path("figures").join(name);
        let text = std::fs::read_to_string(&file).expect("a figure");
        let drawing = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let pixels = image::open(file.with_extension("png")).expect("the same in pixels").into_rgb8();
        let width = drawing.root_element().attribute("width").and_then(|width| width.parse().ok());
        assert_eq!(width.map(|width: f64| (width * 1.5).round() as u32), Some(pixels.width()), "{name}");
        assert!(pixels.pixels().any(|pixel| pixel != pixels.get_pixel(0, 0)), "{name} is blank");
    }
    for wanted in [
        "workflow",
        "seeds",
        "groups",
        "time",
        "confusion-baseline",
        "map-p5-truth",
        "map-p6-evaluate-baseline-errors",
        "map-p1-agreement-baseline-clusters",
    ] {
        assert!(names.contains(&format!("{wanted}.svg")), "{wanted} in {names:?}");
    }

    // Without a name the last run of all is meant; a suffix tells the format.
    let table = sandbox.run(&["report"]);
    assert!(table.out().starts_with("| variant |"), "{}", table.all());
    assert_eq!(sandbox.run(&["report", &workflow, "-o", "table.json"]).code(), Some(0));
    let json: Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("table.json")).expect("a table")).expect("JSON");
    assert_eq!(json["rows"][2]["variant"], HOSTILE);
    let wrong = sandbox.run(&["report", &workflow, "-o", "report.pdf"]);
    assert_eq!(wrong.code(), Some(2));
    assert!(wrong.all().contains("end it with .html"), "{}", wrong.all());
    in_a_browser(&sandbox, &page);

    // Another workflow of the same actions has run none of them: their curves are those that the metrics keep.
    let text = std::fs::read_to_string(sandbox.path("quickstart.yaml")).expect("the workflow");
    let copy = sandbox.write("copy.yaml", &text).display().to_string();
    assert_eq!(
        sandbox.json(&["run", "--json", &copy, "--set", "params.epochs=2", "--seeds", "0,1"])["ran"],
        0
    );
    let exported = sandbox.run(&["export", &copy, "--tensorboard", "curves"]);
    assert!(exported.out().starts_with("curves of "), "{}", exported.all());
    assert!(sandbox.path("curves/baseline/seed 0/regions").is_dir(), "{}", exported.all());

    // One variant fails, and a metric is misspelt: what is complete is shown, with what was meant.
    let text = std::fs::read_to_string(&workflow).expect("the workflow");
    let text = text.replace("evaluate.macro_f1, ", "evaluate.macro_f, ");
    let text =
        text.replace("  ablate:\n", "  ablate:\n    too many: { set: { clusters.n_clusters: 100000 } }\n");
    std::fs::write(&workflow, text).expect("it is written");
    let part = sandbox.run(&["run", &workflow, "--set", "params.epochs=2", "--seeds", "0,1"]);
    assert_eq!(part.code(), Some(1), "{}", part.all());
    assert!(part.out().contains("gives no `macro_f`; did you mean `macro_f1`?"), "{}", part.all());
    assert!(part.out().contains("too many") && part.out().contains("2 failed"), "{}", part.all());
}

/// What is done with the page in a browser: it sorts, chooses, walks over a map, and tells what it saw.
const DRIVE: &str = r##"
const until = setInterval(() => {
  if (page.dataset.drawn !== "true") return;
  clearInterval(until);
  const rows = () => [...document.querySelectorAll("table.sortable tbody tr")].map((row) => Number(row.cells[1].dataset.sort));
  const head = document.querySelectorAll("table.sortable thead th")[1];
  head.querySelector("button").click();
  const down = [rows(), head.getAttribute("aria-sort")];
  head.querySelector("button").click();
  const up = [rows(), head.getAttribute("aria-sort")];
  const canvas = document.querySelector("canvas");
  const look = () => canvas.toDataURL();
  const before = look();
  const key = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  key("ArrowRight");
  const first = $("map-readout").textContent;
  key("ArrowRight");
  const second = $("map-readout").textContent;
  const walked = look() !== before;
  key("+");
  const name = (element) => element.getAttribute("aria-label") || element.textContent.trim() || element.closest("label")?.textContent.trim();
  const nameless = [...document.querySelectorAll("button,select,input,canvas,nav,svg[role=img],[role=region]")]
    .filter((element) => !name(element)).map((element) => element.outerHTML.slice(0, 90));
  const score = $("map-score").textContent;
  $("map-variant").value = "1";
  $("map-variant").dispatchEvent(new Event("change"));
  const told = () => ({
    score: $("map-score").textContent, legend: $("map-legend").textContent, map: document.querySelectorAll("canvas")[1].toDataURL().length,
  });
  const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change")); };
  const clusters = {};
  setTimeout(() => { Object.assign(clusters, { before: told() }); choose("map-section", "0"); choose("map-judge", "1"); }, 300);
  setTimeout(() => {
    Object.assign(clusters, { after: told(), variant: $("map-variant").value });
    [...$("map-legend").querySelectorAll("button")].at(-1).click();
    clusters.dimmed = told().map;
    document.querySelector("canvas").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    clusters.readout = $("map-readout").textContent;
    choose("map-judge", "0");
  }, 600);
  setTimeout(() => {
    clusters.back = told().legend;
    page.dataset.seen = JSON.stringify({
      down, up, first, second, walked, nameless, score, other: clusters.before.score, clusters,
      images: document.images.length, handlers: document.querySelectorAll("[onerror]").length,
      confusions: [...document.querySelectorAll("#confusion-figures > figure")].filter((figure) => !figure.hidden).length,
      back: getComputedStyle(document.body).backgroundColor,
    });
  }, 900);
}, 20);
"##;

/// A browser draws everything and asks for nothing.
fn in_a_browser(sandbox: &Sandbox, page: &str) {
    let Some(chromium) = chromium() else {
        println!("skipped: no Chromium (install Debian's `chromium`, or set RESTAGE_CHROMIUM)");
        return;
    };
    let light = seen(&chromium, &sandbox.path("report.html"), &[]);
    assert_eq!(light.attribute("canvases"), "4");

    // What drives it is let in by the page's own word.
    let nonce =
        page.split("<script nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a nonce");
    let driven = page.replace("</body>", &format!("<script nonce=\"{nonce}\">{DRIVE}</script></body>"));
    let driven = sandbox.write("driven.html", &driven);
    let light = seen(&chromium, &driven, &["--window-size=1280,900"]).told();
    let order =
        |which: &str| -> Vec<f64> { serde_json::from_value(light[which][0].clone()).expect("numbers") };
    assert_eq!((&light["down"][1], &light["up"][1]), (&"descending".into(), &"ascending".into()));
    assert!(order("up").is_sorted() && order("down").is_sorted_by(|a, b| a >= b), "{light}");
    assert!(order("up").len() == 3 && order("up")[0] < order("up")[2], "{light}");
    let [first, second] =
        ["first", "second"].map(|which| light[which].as_str().unwrap_or_default().to_owned());
    assert!(
        first.contains("annotated") && first.contains("predicted") && first != second,
        "{first} / {second}"
    );
    assert_eq!(
        (&light["walked"], &light["images"], &light["handlers"]),
        (&true.into(), &0.into(), &0.into())
    );
    assert_eq!((&light["nameless"], &light["confusions"]), (&Value::Array(Vec::new()), &2.into()));
    assert_ne!(light["score"], light["other"], "another variant, another score");
    let clusters = &light["clusters"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(!text(&clusters["before"]["legend"]).contains("cluster"), "{clusters}");
    assert!(text(&clusters["after"]["legend"]).contains("cluster 4"), "{clusters}");
    let [score, readout] = [&clusters["after"]["score"], &clusters["readout"]].map(text);
    assert!(score.starts_with("P1 by image only: ") && score.contains("mostly of their region"), "{score}");
    assert!(readout.contains("cluster") && readout.contains("mostly"), "{readout}");
    assert_ne!(clusters["after"]["map"], clusters["dimmed"], "a cluster that is chosen dims the others");
    assert_eq!(clusters["back"], clusters["before"]["legend"]);

    let dark =
        seen(&chromium, &driven, &["--blink-settings=preferredColorScheme=0", "--window-size=400,800"]);
    assert_eq!(dark.attribute("wide"), "0", "a phone need not scroll sideways");
    assert_ne!(dark.told()["back"], light["back"]);
}

/// The browser, if there is one.
fn chromium() -> Option<PathBuf> {
    let chosen = std::env::var_os("RESTAGE_CHROMIUM").map(PathBuf::from);
    chosen.or_else(|| Some(PathBuf::from("/usr/bin/chromium"))).filter(|path| path.is_file())
}

/// A page as a browser left it.
struct Seen(String);

impl Seen {
    /// A `data-` attribute of the document.
    fn attribute(&self, name: &str) -> &str {
        let start = format!(" data-{name}=\"");
        self.0
            .split(&start)
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_else(|| panic!("no {name}: {}", self.0))
    }

    /// What [`DRIVE`] saw.
    fn told(&self) -> Value {
        let text = self
            .attribute("seen")
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Opens a page, which must have drawn everything without an error and without a request.
fn seen(chromium: &Path, page: &Path, options: &[&str]) -> Seen {
    let profile = tempfile::tempdir().expect("a folder");
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--enable-logging=stderr",
            "--v=0",
            "--virtual-time-budget=10000",
            "--timeout=60000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("Chromium starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = errors.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let start = text.find("<html").unwrap_or_else(|| panic!("no page: {errors}"));
    let end = text[start..].find('>').map_or(text.len(), |end| start + end);
    let seen = Seen(text[start..end].to_owned());
    for (attribute, wanted) in [("drawn", "true"), ("errors", "0"), ("empty", "0"), ("requests", "0")] {
        assert_eq!(seen.attribute(attribute), wanted, "{attribute}: {}", seen.0);
    }
    assert!(seen.attribute("figures").parse::<u32>().expect("a count") > 10, "{}", seen.0);
    seen
}
