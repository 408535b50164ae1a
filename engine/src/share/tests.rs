//! Archives as anybody may make them.

use std::{fs, path::Path, sync::LazyLock};

use proptest::prelude::*;
use restage_cache::{Record, Store};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::*;

const YAML: &str = "restage: 1\nplugins: [{ path: ../stages/ssl }]\nimport: { prep: { path: parts/p.yaml } }\nenv: [WHO]\n\
                    params: { epochs: 3 }\nstages:\n  train: { uses: ssl/pretrain, with: { epochs: \"${params.epochs}\", path: ../data/A1 } }\n\
                    sweep: { seeds: [0, 1] }\n";
const PART: &str = "restage: 1\nstages: { load: { uses: visium/load } }\n";

/// A member as it stands in a tar.
#[derive(Clone)]
struct Raw {
    name: Vec<u8>,
    kind: EntryType,
    bytes: Vec<u8>,
}

impl Raw {
    fn of(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), kind: EntryType::Regular, bytes: bytes.into() }
    }
}

fn digest(bytes: &[u8]) -> Value {
    json!(Digest::of(bytes))
}

/// Members of a good archive, but for the manifest.
fn members() -> Vec<Raw> {
    let action =
        json!({ "uses": "ssl/pretrain", "identity": Digest::of(b"code"), "params": { "epochs": 3 } });
    let instance = json!({ "variant": "baseline", "seed": 0, "stage": "train", "at": {}, "action": 0 });
    let plan = json!({ "actions": [action], "instances": [instance], "metrics": [], "test": "sign_flip" });
    vec![
        Raw::of(PLAN, plan.to_string()),
        Raw::of("workflow/w.yaml", YAML),
        Raw::of("workflow/parts/p.yaml", PART),
        Raw::of("data/x.csv", "1,2\n"),
    ]
}

/// What announces these.
fn announcing(members: &[Raw]) -> Value {
    let member = |raw: &Raw| {
        let name = String::from_utf8_lossy(&raw.name);
        json!({ "name": name, "size": raw.bytes.len(), "digest": digest(&raw.bytes) })
    };
    json!({
        "format": 1, "restage": "0.1.0", "by": "alice@lab", "time": null, "workflow": "w.yaml",
        "plugins": [{
            "name": "ssl", "version": "0.1.0", "identity": Digest::of(b"code"), "from_sources": true,
            "path": "../stages/ssl", "folder": "", "types": ["ssl/pretrain"],
        }],
        "data": [{
            "path": "../data/A1", "folder": "", "digest": Digest::of(b"data"), "bytes": 1234, "files": 3, "code": false,
            "packed": false,
        }],
        "variants": ["baseline", "image \u{1b}[31monly"], "baseline": "baseline", "seeds": [0, 1], "run": null,
        "members": members.iter().map(member).collect::<Vec<_>>(),
    })
}

fn tar(members: &[Raw]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for Raw { name, kind, bytes } in members {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // As it is: what checks names when it writes would not write these.
        let field = &mut header.as_old_mut().name;
        let length = name.len().min(field.len());
        field[..length].copy_from_slice(&name[..length]);
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An archive of these members, honestly announced, and then changed.
fn archive(members: &[Raw], change: impl FnOnce(&mut Value, &mut Vec<Raw>)) -> Vec<u8> {
    let (mut manifest, mut members) = (announcing(members), members.to_vec());
    change(&mut manifest, &mut members);
    members.insert(0, Raw::of(MANIFEST, manifest.to_string()));
    tar(&members)
}

/// A good archive in a file, for who shows what is in it.
pub(crate) fn good(folder: &Path) -> PathBuf {
    let path = folder.join("w.restage");
    fs::write(&path, archive(&members(), |_, _| {})).unwrap();
    path
}

/// Of all archives here: none has results that it takes.
static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
});

/// Reads and unpacks an archive beside other files, and checks that nothing but its folder came of it.
fn taken(bytes: &[u8]) -> Result<Vec<String>, String> {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("home");
    fs::create_dir(&home).unwrap();
    let path = home.join("w.restage");
    fs::write(&path, bytes).unwrap();
    fs::write(root.path().join("mine"), "mine").unwrap();
    let result = Opened::read(&path).and_then(|opened| opened.unpack(&home.join("out"), &STORE.1));
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(root.path()), ["home", "mine"]);
    assert_eq!(fs::read_to_string(root.path().join("mine")).unwrap(), "mine");
    match result {
        Ok(unpacked) => {
            assert_eq!(names(&home), ["out", "w.restage"]);
            Ok(unpacked.files)
        }
        Err(error) => {
            assert_eq!(names(&home), ["w.restage"], "what is refused leaves nothing");
            Err(crate::causes(&error).join(": "))
        }
    }
}

#[test]
fn a_good_archive_is_unpacked_into_its_folder() {
    let files = taken(&archive(&members(), |_, _| {})).unwrap();
    assert_eq!(files, ["w.yaml", "parts/p.yaml", "x.csv"]);
}

/// What is done to a good archive, and the words it is refused with.
type Case = (&'static str, fn(&mut Value, &mut Vec<Raw>), &'static str);

/// Adds a member that is announced.
fn add(manifest: &mut Value, members: &mut Vec<Raw>, raw: Raw) {
    let name = String::from_utf8_lossy(&raw.name).into_owned();
    let member = json!({ "name": name, "size": raw.bytes.len(), "digest": digest(&raw.bytes) });
    manifest["members"].as_array_mut().unwrap().push(member);
    members.push(raw);
}

#[test]
fn hostile_archives_are_refused_before_anything_is_written() {
    let cases: Vec<Case> = vec![
        ("steps up", |m, r| add(m, r, Raw::of("workflow/../../mine", "x")), "`.` or `..`"),
        ("steps up at once", |m, r| add(m, r, Raw::of("../mine", "x")), "`.` or `..`"),
        ("absolute", |m, r| add(m, r, Raw::of("/tmp/x", "x")), "an absolute path"),
        ("a drive", |m, r| add(m, r, Raw::of("C:/x", "x")), "an absolute path"),
        ("a backslash", |m, r| add(m, r, Raw::of("workflow/..\\x", "x")), "a backslash"),
        ("empty parts", |m, r| add(m, r, Raw::of("workflow//x", "x")), "empty"),
        ("no such kind", |m, r| add(m, r, Raw::of("other/x", "x")), "that nothing of an archive has"),
        ("twice", |m, r| add(m, r, Raw::of("workflow/w.yaml", YAML)), "twice"),
        ("by case", |m, r| add(m, r, Raw::of("workflow/W.yaml", YAML)), "only by case"),
        (
            "by Unicode",
            |m, r| {
                add(m, r, Raw::of("data/caf\u{e9}", "x"));
                add(m, r, Raw::of("data/cafe\u{301}", "x"));
            },
            "how Unicode writes it",
        ),
        ("data over a workflow", |m, r| add(m, r, Raw::of("data/W.YAML", "x")), "only by case"),
        ("a file for a folder", |m, r| add(m, r, Raw::of("data/parts", "x")), "that of a folder"),
        ("among what is ours", |m, r| add(m, r, Raw::of("data/from-share/journal.jsonl", "x")), "from-share"),
        ("a link", |_, r| r[3].kind = EntryType::Symlink, "no plain file"),
        ("a hard link", |_, r| r[3].kind = EntryType::Link, "no plain file"),
        ("a device", |_, r| r[3].kind = EntryType::Char, "no plain file"),
        ("a pipe", |_, r| r[3].kind = EntryType::Fifo, "no plain file"),
        ("a long name's header", |_, r| r[3].kind = EntryType::GNULongName, "no plain file"),
        ("a sparse file", |_, r| r[3].kind = EntryType::GNUSparse, "no plain file"),
        ("a longer member", |_, r| r[3].bytes = vec![b'x'; 5000], "has more in it than it announces"),
        ("a member of another length", |_, r| r[3].bytes = b"1,2".to_vec(), "another length"),
        ("one member more", |_, r| r.push(Raw::of("data/y", "x")), "has more in it than it announces"),
        (
            "one announced too often",
            |m, _| {
                let member = json!({ "name": "data/y", "size": 0, "digest": digest(b"") });
                m["members"].as_array_mut().unwrap().push(member);
            },
            "it is cut",
        ),
        ("other bytes", |_, r| r[3].bytes = b"1,3\n".to_vec(), "not those that are announced"),
        ("another order", |_, r| r.swap(1, 2), "which is not announced there"),
        (
            "another name in the tar",
            |_, r| r[3].name = b"../../mine".to_vec(),
            "which is not announced there",
        ),
        ("a later format", |m, _| m["format"] = json!(2), "format 2, this restage knows 1"),
        ("no format", |m, _| m["format"] = json!("one"), "cannot be read"),
        (
            "a long workflow",
            |m, r| {
                r[2].bytes = vec![b'#'; (1 << 20) + 1];
                *m = announcing(r);
            },
            "longer than 1 MiB",
        ),
        (
            "an announced terabyte",
            |m, _| m["members"][3]["size"] = json!(1_u64 << 40),
            "it is cut, or has more in it",
        ),
        ("all there is", |m, _| m["members"][3]["size"] = json!(u64::MAX), "it is cut, or has more in it"),
        (
            "too many members",
            |m, _| {
                let member =
                    |n: usize| json!({ "name": format!("data/{n}"), "size": 0, "digest": digest(b"") });
                m["members"] = (0..100_001).map(member).collect();
            },
            "more than 100000 members",
        ),
        (
            "a workflow that reads another file",
            |m, r| {
                r[1].bytes = YAML.replace("parts/p.yaml", "../../mine").into();
                *m = announcing(r);
            },
            "which is not in the archive",
        ),
        (
            "a workflow that imports itself",
            |m, r| {
                r[1].bytes = YAML.replace("parts/p.yaml", "w.yaml").into();
                *m = announcing(r);
            },
            "in a circle",
        ),
        (
            "no YAML",
            |m, r| {
                r[1].bytes = b"a: [".to_vec();
                *m = announcing(r);
            },
            "it is no workflow",
        ),
        (
            "no text",
            |m, r| {
                r[1].bytes = b"\xff".to_vec();
                *m = announcing(r);
            },
            "not UTF-8",
        ),
        ("no workflow", |m, _| m["workflow"] = json!("../w.yaml"), "is not in it"),
        ("a folder that leads out", |m, _| m["data"][0]["folder"] = json!("../.."), "leads out"),
        (
            "data that is not what it says",
            |m, _| {
                m["data"][0]["packed"] = json!(true);
                m["data"][0]["path"] = json!("x.csv");
            },
            "not what its digest says",
        ),
        ("data outside", |m, _| m["data"][0]["packed"] = json!(true), "not what its digest says"),
        (
            "results that are none",
            |m, r| add(m, r, Raw::of(RESULTS, tar(&[Raw::of("../x", "x")]))),
            "was not taken",
        ),
        (
            "an empty plan",
            |m, r| {
                r[0].bytes = b"[]".to_vec();
                *m = announcing(r);
            },
            "cannot be read",
        ),
    ];
    for (name, change, words) in cases {
        let error = taken(&archive(&members(), change)).expect_err(name);
        assert!(error.contains(words), "{name}: {error}");
    }
    let good = archive(&members(), |_, _| {});
    for (bytes, words) in [
        (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "compressed"),
        (b"PK\x03\x04\0\0".to_vec(), "compressed"),
        (Vec::new(), "empty"),
        (b"restage: 1\n".to_vec(), "no tar"),
        (tar(&members()), "does not begin with `share.json`"),
        (good[..good.len() - 1024].to_vec(), "it is cut"),
        ([good.clone(), good.clone()].concat(), "more in it than it announces"),
    ] {
        let error = taken(&bytes).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(Opened::read(folder.path()).is_err_and(|error| error.to_string().contains("a folder")));
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("store")).unwrap();
    let opened = Opened::read(&good(root.path())).unwrap();
    let folder = root.path().join("out");
    std::os::unix::fs::symlink("nowhere", &folder).unwrap();
    assert!(matches!(opened.unpack(&folder, &store), Err(ShareError::Occupied(_))));
    assert!(!root.path().join("nowhere").exists());
}

#[test]
fn results_go_into_the_store_checked() {
    let root = tempfile::tempdir().unwrap();
    let theirs = Store::open(&root.path().join("theirs")).unwrap();
    let staging = theirs.staging().unwrap();
    fs::create_dir(staging.path().join("a")).unwrap();
    fs::write(staging.path().join("a/text"), "it").unwrap();
    let artifact = theirs.publish(&staging.path().join("a")).unwrap().digest;
    let key = restage_cache::ActionKey::derive("test", b"1");
    let provenance = json!({ "params": { "path": { "$path": "/home/alice/x" } } });
    let record = Record { outputs: [("text".to_owned(), artifact)].into(), provenance };
    theirs.record(&key, &record).unwrap();
    let bundle = root.path().join("results");
    let without = |_: &restage_cache::ActionKey, _: Value| json!({ "stage": "write" });
    theirs.export_told(&[key].into(), &Default::default(), &bundle, &without).unwrap();
    let bytes = fs::read(&bundle).unwrap();
    let good = archive(&members(), |m, r| add(m, r, Raw::of(RESULTS, bytes.clone())));
    let path = root.path().join("w.restage");
    fs::write(&path, good).unwrap();
    let ours = Store::open(&root.path().join("ours")).unwrap();
    let unpacked = Opened::read(&path).unwrap().unpack(&root.path().join("out"), &ours).unwrap();
    assert_eq!(unpacked.results.unwrap().records, [key].into());
    let taken = ours.recorded(&key).unwrap().unwrap();
    assert_eq!((taken.outputs, taken.provenance), (record.outputs, json!({ "stage": "write" })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was changed, cut, doubled: refused or unpacked in its place, and no panic.
    #[test]
    fn a_mutated_archive_writes_nothing_elsewhere(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        doubled in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = archive(&members(), |_, _| {});
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(block) = doubled {
            let start = block.index(bytes.len() / 512) * 512;
            let block = bytes[start..start + 512].to_vec();
            bytes.splice(start..start, block);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = taken(&bytes);
    }

    /// Names of any kind, honestly announced.
    #[test]
    fn names_of_members_lead_nowhere(
        names in prop::collection::vec(prop::collection::vec(
            prop::sample::select(vec!["..", ".", "", "/", "mine", "workflow", "data", "home", "A", "a", "\u{e9}", "e\u{301}", "\\", ":", "x.yaml"]),
            1..5,
        ), 1..4),
        kind in prop::sample::select(vec!["workflow/", "data/", ""]),
    ) {
        let bytes = archive(&members(), |manifest, members| {
            for parts in &names {
                add(manifest, members, Raw::of(&format!("{kind}{}", parts.join("/")), "x"));
            }
        });
        if let Ok(files) = taken(&bytes) {
            prop_assert!(files.iter().all(|file| !file.split('/').any(|part| matches!(part, "" | "." | ".."))));
        }
    }
}
