//! The digest of a tree: what it depends on, what it does not, and that it never changes between versions.

use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::common::{Files, files, publish, write};
use proptest::prelude::*;
use restage_cache::{Digest, Error, Refusal, Store, tree_digest};
use tempfile::TempDir;

/// Up to six files in up to two levels of folders; no name is both a file and a folder.
fn any_files() -> impl Strategy<Value = Files> {
    let path = "(d[ab]/){0,2}f[abc]{1,2}";
    let content = prop::collection::vec(0u8..3, 0..4);
    prop::collection::btree_map(path.prop_map(String::from), content, 0..6)
}

fn digest_of(files: &Files) -> Digest {
    let temp = TempDir::new().unwrap();
    write(temp.path(), files);
    tree_digest(temp.path()).unwrap()
}

/// The documented encoding, written down a second time.
fn expected(files: &Files) -> Digest {
    fn head(kind: u8, number: usize, out: &mut Vec<u8>) {
        match number {
            0..24 => out.push(kind << 5 | number as u8),
            24..256 => out.extend([kind << 5 | 24, number as u8]),
            _ => {
                out.push(kind << 5 | 26);
                out.extend((number as u32).to_be_bytes());
            }
        }
    }
    let mut cbor = Vec::new();
    head(4, files.len(), &mut cbor);
    for (path, content) in files {
        head(4, 3, &mut cbor);
        head(3, path.len(), &mut cbor);
        cbor.extend(path.bytes());
        head(0, content.len(), &mut cbor);
        head(3, 64, &mut cbor);
        cbor.extend(blake3::hash(content).to_hex().bytes());
    }
    Digest::from_bytes(blake3::derive_key("restage tree v1", &cbor))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_is_the_digest_of_the_documented_encoding(files in any_files()) {
        prop_assert_eq!(digest_of(&files), expected(&files));
    }

    #[test]
    fn two_trees_share_it_only_if_they_are_equal(a in any_files(), b in any_files()) {
        prop_assert_eq!(digest_of(&a) == digest_of(&b), a == b);
    }

    #[test]
    fn order_times_modes_and_empty_folders_are_no_part_of_it(files in any_files(), seconds in 0u64..2_000_000_000) {
        let temp = TempDir::new().unwrap();
        write(temp.path(), files.iter().rev());
        fs::create_dir_all(temp.path().join("de/empty")).unwrap();
        for path in files.keys() {
            let path = temp.path().join(path);
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o740)).unwrap();
        }
        prop_assert_eq!(tree_digest(temp.path()).unwrap(), digest_of(&files));
    }

    #[test]
    fn one_bit_of_one_file_changes_it(mut files in any_files(), at in any::<prop::sample::Index>()) {
        files.insert("some".into(), b"content".to_vec());
        let before = digest_of(&files);
        files.get_mut("some").unwrap()[at.index(7)] ^= 1;
        prop_assert_ne!(digest_of(&files), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))] // each flushes a disk

    #[test]
    fn it_is_the_artifacts_digest(files in any_files()) {
        let temp = TempDir::new().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let published = publish(&store, &files);
        let folder = store.artifact(&published.digest).unwrap().unwrap();
        prop_assert_eq!(published.digest, digest_of(&files));
        prop_assert_eq!(tree_digest(&folder).unwrap(), published.digest);
    }
}

#[test]
fn a_boundary_cannot_move() {
    let trees = [
        files(&[("ab", "c")]),
        files(&[("a", "bc")]),
        files(&[("a/b", "c")]),
        files(&[("a", "b"), ("c", "")]),
        files(&[("a", ""), ("b", "c")]),
        files(&[("a", ""), ("bc", "")]),
        files(&[("abc", "")]),
        files(&[]),
    ];
    let mut digests: Vec<_> = trees.iter().map(digest_of).collect();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), trees.len());
}

#[test]
fn a_large_file_hashes_as_its_bytes() {
    let content: Vec<u8> = (0..3_000_001u32).map(|i| (i / 7) as u8).collect();
    let large: Files = [("large".into(), content)].into();
    assert_eq!(digest_of(&large), expected(&large));
}

#[test]
fn the_thread_count_changes_nothing() {
    let temp = TempDir::new().unwrap();
    let many: Files = (0..200).map(|i| (format!("c/{i}"), vec![i as u8; i * 37])).collect();
    write(temp.path(), &many);
    fs::write(temp.path().join("large"), vec![7; 2_500_000]).unwrap();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| tree_digest(temp.path()).unwrap())
    };
    assert_eq!(with(1), with(5));
}

#[test]
fn links_count_as_their_file_at_the_top_and_inside() {
    let temp = TempDir::new().unwrap();
    let (real, linked) = (temp.path().join("real"), temp.path().join("linked"));
    write(&real, &files(&[("a", "1"), ("b", "2")]));
    write(&linked, &files(&[("a", "1")]));
    symlink(real.join("b"), linked.join("b")).unwrap();
    assert_eq!(tree_digest(&linked).unwrap(), tree_digest(&real).unwrap());
    symlink(&real, temp.path().join("top")).unwrap();
    assert_eq!(tree_digest(&temp.path().join("top")).unwrap(), tree_digest(&real).unwrap());
    symlink(real.join("a"), temp.path().join("file")).unwrap();
    assert_eq!(tree_digest(&temp.path().join("file")).unwrap(), tree_digest(&real.join("a")).unwrap());
}

#[test]
fn a_file_alone_is_not_a_folder_with_it() {
    let temp = TempDir::new().unwrap();
    write(temp.path(), &files(&[("a", "1")]));
    assert_ne!(tree_digest(&temp.path().join("a")).unwrap(), tree_digest(temp.path()).unwrap());
    let empty_path: Files = [(String::new(), b"1".to_vec())].into();
    assert_eq!(tree_digest(&temp.path().join("a")).unwrap(), expected(&empty_path));
}

#[test]
fn what_cannot_be_hashed_is_named() {
    let refusal = |prepare: &dyn Fn(&Path)| {
        let temp = TempDir::new().unwrap();
        prepare(temp.path());
        match tree_digest(temp.path()) {
            Err(Error::Refused { path, why }) if path.starts_with(temp.path()) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal(&|top| symlink(top, top.join("loop")).unwrap()), Refusal::LinkToFolder);
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    assert_eq!(refusal(&|top| fs::write(top.join(odd), "x").unwrap()), Refusal::NotUtf8);
    let socket = |top: &Path| drop(std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap());
    assert_eq!(refusal(&socket), Refusal::Special);

    let temp = TempDir::new().unwrap();
    symlink("nowhere", temp.path().join("dangling")).unwrap();
    for missing in [temp.path().to_path_buf(), temp.path().join("missing")] {
        let error = tree_digest(&missing).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(temp.path())), "{error}");
    }
}

/// `golden_digests.txt` may only grow: a digest that changes makes every store out there worthless.
#[test]
fn golden_digests_stay() {
    let known = include_str!("../golden_digests.txt");
    let trees = [
        ("empty", files(&[])),
        ("one", files(&[("a", "1")])),
        (
            "zarr",
            files(&[
                ("zarr.json", "{\"zarr_format\":3}"),
                ("c/0/0", "\0\u{1}"),
                ("c/0/10", ""),
                ("c/0/9", "9"),
            ]),
        ),
        ("names", files(&[("é/ü", "ä"), ("a b", " "), ("A", "a"), ("a.b/c", "x"), ("a/b", "y")])),
        ("long", files(&[("n", &"spot ".repeat(100_000))])),
    ];
    let lines = trees.map(|(name, files)| format!("{name} {}", digest_of(&files)));
    let unknown: Vec<_> = lines.iter().filter(|line| !known.lines().any(|known| known == *line)).collect();
    assert!(unknown.is_empty(), "not in golden_digests.txt: {unknown:#?}");
}
