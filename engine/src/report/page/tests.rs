use std::collections::{BTreeMap, BTreeSet};

use restage_cache::{ActionKey, Digest, Store};
use restage_stage::catalogue::PortType;
use serde_json::json;

use super::{
    super::{
        outcome::{ActionOutcome, Done, Outcome, State},
        statistics::Paired,
        table::{Row, Series, Table},
    },
    figures::{Disc, Key, Tissue},
    *,
};
use crate::{
    plan::PastAction,
    run::event::{ActionHead, Comparison, How, InstanceHead},
    workflow::{MetricRef, Test},
};

const HOSTILE: &str = "</script><img src=x onerror=\"alert('&')\">";

fn action(name: &str, uses: &str, state: State, inputs: &[(&str, usize, &str)]) -> ActionOutcome {
    let mut read: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for (port, source, output) in inputs {
        read.entry((*port).to_owned()).or_default().push((*source, (*output).to_owned()));
    }
    let outputs =
        BTreeMap::from([("model".to_owned(), PortType::Model), ("metrics".to_owned(), PortType::Metrics)]);
    let head = ActionHead { name: name.into(), uses: uses.into(), inputs: read, outputs };
    ActionOutcome { head, state, curves: BTreeMap::new(), times: BTreeMap::new(), retries: 0 }
}

fn done(name: &str, milliseconds: u64) -> State {
    State::Done(Box::new(Done {
        how: How::Ran { milliseconds },
        key: ActionKey::derive("test", name.as_bytes()),
        outputs: BTreeMap::from([("model".to_owned(), Digest::of(name.as_bytes()))]),
        past: PastAction {
            stage: name.into(),
            at: BTreeMap::new(),
            uses: "ssl/pretrain".into(),
            identity: Digest::of(b"code"),
            keyed_params: json!({ "objective": HOSTILE, "epochs": 3 }),
            seed: None,
            stream: None,
            inputs: BTreeMap::new(),
        },
        metrics: BTreeMap::new(),
    }))
}

/// Two variants, one of them with a name that is an attack; its last stage failed.
fn outcome() -> Outcome {
    let mut pretrain = action("pretrain", "ssl/pretrain", done("pretrain", 1_500), &[]);
    pretrain
        .curves
        .insert("loss".into(), (0..10).map(|step| (step, Some(5.0 / (step as f64 + 1.0)))).collect());
    pretrain.curves.insert("learning_rate".into(), (0..10).map(|step| (step, Some(0.1))).collect());
    let mut other = action("pretrain", "ssl/pretrain", done("other", 700), &[]);
    other.curves.insert("loss".into(), vec![(0, Some(4.0)), (1, None), (2, Some(f64::NAN)), (3, Some(2.0))]);
    let failure = State::Failed { message: format!("it broke\n{HOSTILE}"), milliseconds: 20 };
    let mut failed = action("regions", "classify/probe", failure, &[("model", 1, "model")]);
    failed.retries = 2;
    let actions = vec![
        pretrain,
        other,
        action("regions", "classify/probe", done("regions", 40), &[("model", 0, "model")]),
        failed,
        action("evaluate", "classify/evaluate", State::Skipped { because: 3 }, &[("model", 3, "model")]),
    ];
    let instance = |variant: &str, stage: &str, action| InstanceHead {
        variant: variant.into(),
        seed: Some(0),
        stage: stage.into(),
        at: BTreeMap::new(),
        action,
    };
    Outcome {
        workflow: format!("/home/x/{}.yaml", HOSTILE.replace('/', "")).into(),
        version: "0.1.0".into(),
        time: 1_795_682_004_188,
        by: Some(format!("{HOSTILE}@host")),
        milliseconds: Some(2_300),
        variants: vec!["baseline".into(), HOSTILE.into()],
        baseline: "baseline".into(),
        comparison: Comparison {
            metrics: vec![MetricRef { stage: "evaluate".into(), name: "macro_f1".into() }],
            seeds: vec![0, 1],
            test: Test::SignFlip,
            family: Vec::new(),
            streams: Vec::new(),
        },
        actions,
        instances: vec![
            instance("baseline", "pretrain", 0),
            instance("baseline", "regions", 2),
            instance(HOSTILE, "pretrain", 1),
            instance(HOSTILE, "regions", 3),
            instance(HOSTILE, "evaluate", 4),
        ],
    }
}

fn table() -> Table {
    let groups = |values: [f64; 3]| ["A", "B", HOSTILE].map(str::to_owned).into_iter().zip(values).collect();
    let baseline = Row {
        variant: "baseline".into(),
        values: vec![Series::new(vec![0.8, 0.82])],
        groups: groups([0.8, 0.7, 0.9]),
        ran: 2,
        ..Row::default()
    };
    let other = Row {
        variant: HOSTILE.into(),
        values: vec![Series::new(vec![0.7, 0.75])],
        groups: groups([0.7, 0.65, 0.8]),
        difference: Some(-0.085),
        comparison: Some(Paired {
            mean: -0.083,
            interval: Some([-0.1, -0.05]),
            groups: 3,
            dz: Some(-2.9),
            cliffs_delta: -0.5,
            p: Some(0.25),
            p_adjusted: Some(0.25),
            smallest_attainable: Some(0.25),
        }),
        alike: None,
        setting: Some("transductive".into()),
        ran: 1,
        reused: 1,
    };
    Table {
        metrics: vec!["evaluate.macro_f1".into()],
        claims: vec![None],
        baseline: "baseline".into(),
        groups: ["A", "B", HOSTILE].map(str::to_owned).into(),
        test: Test::SignFlip,
        rows: vec![baseline, other],
        spread: None,
        notes: vec!["underpowered: as few groups as that".into(), format!("transductive: `{HOSTILE}`")],
    }
}

fn page(outcome: &Outcome) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    html(outcome, &table(), &store, None)
}

/// The text of a piece of HTML, a line an element.
fn words(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        text.push('\n');
        let skipped = ["script", "style", "svg"]
            .iter()
            .find_map(|name| rest[start + 1..].starts_with(name).then(|| format!("</{name}>")));
        let end = skipped.and_then(|end| rest[start..].find(&end)).unwrap_or(0);
        rest = rest[start + end..].find('>').map_or("", |close| &rest[start + end + close + 1..]);
    }
    text.push_str(rest);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_a_page_says() {
    insta::assert_snapshot!(words(&page(&outcome())));
}

#[test]
fn a_run_that_goes_on_or_has_no_metric_has_a_page() {
    let mut outcome = outcome();
    outcome.milliseconds = None;
    for (action, state) in outcome.actions.iter_mut().zip([State::Running, State::Pending, State::Pending]) {
        action.state = state;
    }
    outcome.comparison.metrics.clear();
    let folder = tempfile::tempdir().unwrap();
    let table =
        Table { metrics: Vec::new(), rows: Vec::new(), groups: Vec::new(), notes: Vec::new(), ..table() };
    let text = words(&html(&outcome, &table, &Store::open(folder.path()).unwrap(), None));
    assert!(text.contains("The run has not ended: 0 of 5 actions are done"), "{text}");
    assert!(text.contains("The workflow names no metric"), "{text}");
    assert!(text.contains("not ended: 0 of 5 done") && text.contains("it broke"), "{text}");
}

#[test]
fn an_interrupted_run_says_how_it_goes_on() {
    let mut outcome = outcome();
    outcome.actions[3].state = State::Pending;
    outcome.actions[4].state = State::Pending;
    let text = words(&page(&outcome));
    assert!(
        text.contains("interrupted") && text.contains("3 of 5 actions done: the same command goes on"),
        "{text}"
    );
    assert!(!text.contains("What failed"), "{text}");
}

#[test]
fn text_of_users_is_text() {
    let page = page(&outcome());
    assert!(!page.contains("<img"));
    // Its own, and nothing else's.
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</script").count(), 1);
    let events = ["onerror=\"", "onclick=", "onload="];
    assert!(page.contains("&lt;/script&gt;&lt;img src=x onerror=&quot;"));
    assert!(events.iter().all(|event| !page.contains(event)), "no handler is written into the page");
}

#[test]
fn a_page_asks_for_nothing() {
    let page = page(&outcome()).replace("http://www.w3.org/2000/svg", "");
    for address in ["http:", "https:", "//cdn", "@import", "url(http", "src=\"/", "href=\"/"] {
        assert!(!page.contains(address), "{address}");
    }
    assert!(page.contains("default-src 'none'") && page.contains("connect-src 'none'"));
    let served = {
        let folder = tempfile::tempdir().unwrap();
        html(&outcome(), &table(), &Store::open(folder.path()).unwrap(), Some("follow()"))
    };
    assert!(served.contains("connect-src 'self'") && served.contains("\nfollow()\n"));
}

/// All values of an attribute.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn ids_are_unique_and_links_lead_somewhere() {
    let page = page(&outcome());
    let ids = attributes(&page, "id");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "{ids:?}");
    for link in attributes(&page, "href").into_iter().filter_map(|link| link.strip_prefix('#')) {
        assert!(unique.contains(link), "#{link}");
    }
    for named in attributes(&page, "aria-labelledby") {
        assert!(unique.contains(named), "{named}");
    }
}

/// The pictures of a page.
fn pictures(page: &str) -> Vec<&str> {
    page.split("<svg").skip(1).filter_map(|rest| Some(&rest[..rest.find("</svg>")? + 6])).collect()
}

#[test]
fn every_picture_is_well_formed() {
    let page = page(&outcome());
    let pictures = pictures(&page);
    // Two cells of values and one of a difference, seeds, groups, two curves, times, the graph.
    assert_eq!(pictures.len(), 3 + 2 + 2 + 1 + 1);
    for picture in pictures {
        let picture = format!("<svg{picture}");
        roxmltree::Document::parse(&picture).unwrap_or_else(|error| panic!("{error}: {picture}"));
    }
}

#[test]
fn figures_are_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (outcome, table) = (outcome(), table());
    let page = Page::read(&outcome, &table, &Store::open(folder.path()).unwrap());
    let figures = page.figures();
    let names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(names, ["seeds", "groups", "curve-pretrain-loss", "curve-pretrain-learning-rate", "time"]);
    for figure in &figures {
        let file = figure.file();
        let document = roxmltree::Document::parse(&file).unwrap();
        assert!(document.root_element().children().any(|element| element.tag_name().name() == "style"));
    }
}

#[test]
fn drawings_of_regions_are_well_formed_whatever_they_are_called() {
    let matrix = figures::Confusion {
        classes: vec![HOSTILE.into(), "fat".into()],
        counts: vec![vec![0.0, 0.0], vec![2.5, 997.5]],
    };
    let confusion = figures::confusion("x", HOSTILE, &matrix).file();
    assert!(confusion.contains("&lt;1<") && confusion.contains("100 %"));
    let drawn = Tissue {
        width: 100.0,
        height: 50.0,
        radius: 4.0,
        image: Some("data:image/jpeg;base64,AAAA"),
        discs: vec![
            Disc { x: 1.0, y: 2.0, colour: Some("#123456".into()) },
            Disc { x: 5.0, y: 6.0, colour: None },
        ],
        keys: vec![Key { colour: "#123456".into(), word: HOSTILE.into() }],
    };
    for file in [confusion, figures::tissue("x", HOSTILE, &drawn).file()] {
        let document = roxmltree::Document::parse(&file).unwrap();
        assert!(document.descendants().any(|element| element.text() == Some(HOSTILE)), "{file}");
    }
}
