//! Bundles: what goes in comes out, and what does not belong in one is refused before it does anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use restage_cache::{ActionKey, Digest, Error, Lookup, MissReason, Store, tree_digest};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;

use crate::common::{Files, files, key, publish, record, staged};

/// Members of a tar: name and bytes.
type Members = Vec<(String, Vec<u8>)>;

struct Scene {
    temp: TempDir,
    alice: Store,
    digest: Digest,
}

impl Scene {
    fn new() -> Scene {
        let temp = TempDir::new().unwrap();
        let alice = Store::open(&temp.path().join("alice")).unwrap();
        let digest = publish(&alice, &contents()).digest;
        alice.record(&key("a"), &record(&[("out", digest)])).unwrap();
        Scene { temp, alice, digest }
    }

    fn bundle(&self) -> PathBuf {
        let to = self.temp.path().join("a.tar");
        if !to.exists() {
            self.alice.export(&actions(), &BTreeSet::new(), &to).unwrap();
        }
        to
    }

    /// Members of the bundle.
    fn members(&self) -> Members {
        let mut archive = Archive::new(fs::File::open(self.bundle()).unwrap());
        let members = archive.entries().unwrap().map(|member| {
            let mut member = member.unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut member, &mut bytes).unwrap();
            (String::from_utf8(member.path_bytes().into_owned()).unwrap(), bytes)
        });
        members.collect()
    }

    /// What an empty store says about these bytes. It is empty afterwards too, and nothing else has changed.
    fn refused(&self, bytes: &[u8]) -> String {
        let place = self.temp.path().join("hostile.tar");
        fs::write(&place, bytes).unwrap();
        let bob = Store::open(&self.temp.path().join("bob")).unwrap();
        let before = names(self.temp.path());
        let error = bob.import(&place).unwrap_err();
        assert_eq!(names(self.temp.path()), before);
        assert_eq!(bob.lookup(&key("a")).unwrap(), Lookup::Miss(MissReason::Never));
        assert_eq!(staged(&bob), 0);
        for folder in ["artifacts", "files", "actions"] {
            assert_eq!(fs::read_dir(bob.root().join("v1").join(folder)).unwrap().count(), 0, "{folder}");
        }
        error.to_string()
    }
}

fn actions() -> BTreeSet<ActionKey> {
    BTreeSet::from([key("a")])
}

fn contents() -> Files {
    files(&[("zarr.json", "{}"), ("c/0/0", "first"), ("c/0/1", "second"), ("c/1/0", "first")])
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|child| child.unwrap().file_name().into_string().unwrap()).collect()
}

fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// A tar of these members, and of one more that is given as it is.
fn packed(members: &[(String, Vec<u8>)], last: Option<(Header, &[u8])>) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in members {
        tar.append(&header(EntryType::Regular, name.as_bytes(), bytes.len() as u64), bytes.as_slice())
            .unwrap();
    }
    if let Some((header, bytes)) = last {
        tar.append(&header, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn what_goes_in_comes_out() {
    let scene = Scene::new();
    let extra = publish(&scene.alice, &files(&[("x", "extra")])).digest;
    let wanted = BTreeSet::from([extra, Digest::of(b"nobody's")]);
    let (to, again) = (scene.temp.path().join("b.tar"), scene.temp.path().join("again.tar"));
    let exported = scene.alice.export(&actions(), &wanted, &to).unwrap();
    assert_eq!(exported.artifacts, BTreeSet::from([scene.digest, extra]));
    assert_eq!((exported.bytes, exported.missing.as_slice()), (18, [Digest::of(b"nobody's")].as_slice()));

    let bob = Store::open(&scene.temp.path().join("bob")).unwrap();
    for _ in 0..2 {
        let imported = bob.import(&to).unwrap();
        assert_eq!((imported.records, imported.artifacts), (actions(), exported.artifacts.clone()));
        assert!(matches!(bob.lookup(&key("a")).unwrap(), Lookup::Hit(_)));
        for digest in [scene.digest, extra] {
            assert_eq!(tree_digest(&bob.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
        }
    }
    bob.export(&actions(), &BTreeSet::from([extra]), &again).unwrap();
    assert_eq!(fs::read(&to).unwrap(), fs::read(&again).unwrap(), "equal results are equal bundles");
    assert!(
        scene.alice.export(&actions(), &BTreeSet::new(), &to).is_err(),
        "what is there is not written over"
    );
    assert_eq!(fs::read(&to).unwrap(), fs::read(&again).unwrap());
    assert_eq!(names(scene.temp.path()), ["again.tar", "alice", "b.tar", "bob"].map(str::to_owned).into());
}

#[test]
fn another_result_is_kept_beside_ours() {
    let scene = Scene::new();
    let bob = Store::open(&scene.temp.path().join("bob")).unwrap();
    let ours = publish(&bob, &files(&[("x", "ours")])).digest;
    bob.record(&key("a"), &record(&[("out", ours)])).unwrap();
    assert_eq!(bob.import(&scene.bundle()).unwrap().different, actions());
    let Lookup::Hit(record) = bob.lookup(&key("a")).unwrap() else { panic!("a miss") };
    assert_eq!(record.outputs["out"], ours);
}

#[test]
fn what_is_no_plain_file_of_a_bundle_is_refused() {
    let scene = Scene::new();
    let members = scene.members();
    let hex = Digest::of(b"x").to_string();
    let good = format!("v1/files/{}/{}", &hex[..2], &hex[2..]);
    let names = [
        "../outside",
        "v1/files/../../outside",
        "/etc/outside",
        "v1/files/ab/../../../outside",
        "C:\\outside",
        "v1/staging/x",
        "FORMAT/x",
        "v1/files/ab",
        &good.to_uppercase(),
    ];
    for name in names {
        let told =
            scene.refused(&packed(&members, Some((header(EntryType::Regular, name.as_bytes(), 1), b"x"))));
        assert!(told.contains("has a name that nothing of a bundle has"), "{told}");
    }
    let with_nul = format!("{good}\0x");
    let told =
        scene.refused(&packed(&members, Some((header(EntryType::Regular, with_nul.as_bytes(), 1), b"x"))));
    assert!(
        told.contains("no manifest before it announces it"),
        "what follows a NUL is no part of a name: {told}"
    );
    let kinds = [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Directory,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::GNUSparse,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::Continuous,
    ];
    for kind in kinds {
        let mut header = header(kind, good.as_bytes(), 0);
        header.set_link_name("/etc/passwd").unwrap();
        header.set_cksum();
        let told = scene.refused(&packed(&members, Some((header, b""))));
        assert!(told.contains("it is no plain file"), "{kind:?}: {told}");
    }
}

#[test]
fn a_symbolic_link_and_then_a_file_through_it_writes_nothing() {
    let scene = Scene::new();
    let outside = scene.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut link = header(EntryType::Symlink, b"v1/files", 0);
    link.set_link_name(&outside).unwrap();
    link.set_cksum();
    let mut tar = Builder::new(packed(&scene.members()[..1], Some((link, b""))));
    tar.append(&header(EntryType::Regular, b"v1/files/x", 1), b"x".as_slice()).unwrap();
    scene.refused(&tar.into_inner().unwrap());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn lies_about_sizes_and_contents_are_refused() {
    let scene = Scene::new();
    let members = scene.members();
    let file = members.iter().position(|(name, _)| name.starts_with("v1/files/")).unwrap();
    let changed = |change: &dyn Fn(&mut Members)| {
        let mut members = members.clone();
        change(&mut members);
        scene.refused(&packed(&members, None))
    };
    assert!(changed(&|m| m[file].1[0] ^= 1).contains("not those that its name says"));
    assert!(changed(&|m| m[file].1.push(0)).contains("a manifest announces"));
    assert!(changed(&|m| m[1].1[3] ^= 1).contains("is not the manifest that its name says"));
    assert!(changed(&|m| drop(m.remove(file))).contains("lacks the file"));
    assert!(changed(&|m| m.insert(file, m[file].clone())).contains("it is there twice"));
    assert!(changed(&|m| drop(m.remove(1))).contains("no manifest before it announces it"));
    assert!(changed(&|m| drop(m.remove(0))).contains("this is no bundle"));
    assert!(changed(&|m| m.clear()).contains("it is empty"));
    assert!(changed(&|m| m.swap(1, file)).contains("no manifest before it announces it"));
    assert!(
        changed(&|m| m.retain(|(name, _)| name == "FORMAT" || name.contains("actions")))
            .contains("and not the artifact")
    );
    // A record under another action's name.
    let other = key("b").to_string();
    let renamed = format!("v1/actions/{}/{}/record.json", &other[..2], &other[2..]);
    assert!(
        changed(&|m| m.last_mut().unwrap().0.clone_from(&renamed)).contains("it is the record of action")
    );
    // More than any disk holds, in a few bytes.
    let (name, _) = &members[file];
    let told = scene.refused(&packed(
        &members[..file],
        Some((header(EntryType::Regular, name.as_bytes(), 1 << 62), b"")),
    ));
    assert!(told.contains("a manifest announces"), "{told}");
}

#[test]
fn what_is_cut_or_compressed_or_something_else_is_refused() {
    let scene = Scene::new();
    let whole = fs::read(scene.bundle()).unwrap();
    let end = whole.len() - 1024; // two empty blocks end a tar
    for cut in (0..end).step_by(301) {
        scene.refused(&whole[..cut]);
    }
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    bomb.resize(4_096, 0);
    for other in [bomb, b"{}".to_vec(), vec![0; 4_096], vec![0xff; 4_096]] {
        scene.refused(&other);
    }
    let missing = scene.alice.import(&scene.temp.path().join("not there")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

#[test]
fn manifests_that_would_harm_are_refused() {
    let scene = Scene::new();
    let row = |path: &str| {
        let digest = Digest::of(b"x").to_string();
        let mut row = vec![0x83, 0x60 + path.len() as u8];
        row.extend(path.bytes());
        row.extend([0x01, 0x78, 64]);
        row.extend(digest.bytes());
        row
    };
    let cases: [(&[&str], &str); 6] = [
        (&["../x"], "is not the manifest"),
        (&["/x"], "is not the manifest"),
        (&["a\0b"], "control character"),
        (&["A", "a"], "only in case"),
        (&["a", "a/b"], "a file and a folder at once"),
        (&["a", "a"], "is not the manifest"),
    ];
    for (paths, expected) in cases {
        let manifest =
            [vec![0x80 + paths.len() as u8], paths.iter().flat_map(|path| row(path)).collect()].concat();
        let digest = Digest::from_bytes(blake3::derive_key("restage tree v1", &manifest)).to_string();
        let name = format!("v1/artifacts/{}/{}/manifest", &digest[..2], &digest[2..]);
        let members = [scene.members()[0].clone(), (name, manifest)];
        let told = scene.refused(&packed(&members, None));
        assert!(told.contains(expected), "{paths:?}: {told}");
    }
}

#[test]
fn a_bundle_that_was_unpacked_is_a_remote() {
    let scene = Scene::new();
    let folder = scene.temp.path().join("unpacked");
    Archive::new(fs::File::open(scene.bundle()).unwrap()).unpack(&folder).unwrap();
    let remote = restage_cache::Remote::open(&format!("file://{}", folder.display())).unwrap();
    let bob = Store::open(&scene.temp.path().join("bob")).unwrap();
    bob.pull(&remote, &actions(), &BTreeSet::new(), &|_, _| {}).unwrap();
    assert!(matches!(bob.lookup(&key("a")).unwrap(), Lookup::Hit(_)));
}
