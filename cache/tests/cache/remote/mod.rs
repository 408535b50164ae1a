//! Remotes: what travels, what is believed, and what is left when a server or a connection fails.

mod conditional;
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use hyper::Method;
use restage_cache::{
    ActionKey, Digest, Error, Lookup, MissReason, Remote, Result, Store, Transfer, tree_digest,
};
use server::{Fault, Server};
use tempfile::TempDir;

use crate::common::{Files, files, key, publish, record, staged, within};

/// Two stores of two people.
struct Two {
    _temp: TempDir,
    alice: Store,
    bob: Store,
}

fn two() -> Two {
    let temp = TempDir::new().unwrap();
    let open = |name| Store::open(&temp.path().join(name)).unwrap();
    Two { alice: open("alice"), bob: open("bob"), _temp: temp }
}

fn contents() -> Files {
    files(&[("zarr.json", "{}"), ("c/0/0", "first"), ("c/0/1", "second"), ("c/1/0", "first")])
}

/// Publishes and records the result of `name`.
fn compute(store: &Store, name: &str, content: &Files) -> Digest {
    let digest = publish(store, content).digest;
    store.record(&key(name), &record(&[("out", digest)])).unwrap();
    digest
}

fn push(store: &Store, remote: &Remote, names: &[&str]) -> Result<Transfer> {
    store.push(remote, &keys(names), &BTreeSet::new(), &|_, _| {})
}

fn pull(store: &Store, remote: &Remote, names: &[&str]) -> Result<Transfer> {
    store.pull(remote, &keys(names), &BTreeSet::new(), &|_, _| {})
}

fn keys(names: &[&str]) -> BTreeSet<ActionKey> {
    names.iter().map(|name| key(name)).collect()
}

/// The result is there, and holds the bytes that its name says.
fn assert_has(store: &Store, name: &str, digest: &Digest) {
    assert!(
        matches!(store.lookup(&key(name)).unwrap(), Lookup::Hit(record) if record.outputs["out"] == *digest)
    );
    assert_eq!(tree_digest(&store.artifact(digest).unwrap().unwrap()).unwrap(), *digest);
}

/// Never computed, and no trace of an attempt.
fn assert_has_nothing(store: &Store, name: &str) {
    assert_eq!(store.lookup(&key(name)).unwrap(), Lookup::Miss(MissReason::Never));
    assert_eq!(staged(store), 0);
}

fn file_url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

#[test]
fn what_one_has_computed_another_gets() {
    let (server, folder) = (Server::s3(), TempDir::new().unwrap());
    for remote in [server.remote(), Remote::open(&file_url(folder.path())).unwrap()] {
        let Two { alice, bob, _temp } = two();
        let digest = compute(&alice, "a", &contents());
        assert_eq!(
            pull(&bob, &remote, &["a"]).unwrap().missing,
            [*key("a").as_digest()],
            "nothing was pushed yet"
        );

        let pushed = push(&alice, &remote, &["a", "never run"]).unwrap();
        assert_eq!((pushed.records, pushed.artifacts, pushed.files, pushed.bytes), (1, 1, 3, 13));
        assert_eq!(pushed.missing, [*key("never run").as_digest()]);
        let pulled = pull(&bob, &remote, &["a"]).unwrap();
        assert_eq!((pulled.records, pulled.artifacts, pulled.files, pulled.bytes), (1, 1, 3, 13));
        assert_has(&bob, "a", &digest);

        // Only what is missing travels, both ways.
        let again = push(&alice, &remote, &["a"]).unwrap();
        assert_eq!(again, Transfer { present: 1, ..Transfer::default() });
        assert_eq!(pull(&bob, &remote, &["a"]).unwrap(), Transfer { present: 1, ..Transfer::default() });
        let next: Files = contents().into_iter().chain([("c/2/0".to_owned(), b"third".to_vec())]).collect();
        compute(&alice, "b", &next);
        let pushed = push(&alice, &remote, &["b"]).unwrap();
        assert_eq!((pushed.artifacts, pushed.files, pushed.bytes), (1, 1, 5));
        let pulled = pull(&bob, &remote, &["b"]).unwrap();
        assert_eq!((pulled.artifacts, pulled.files, pulled.bytes), (1, 1, 5));
    }
}

#[test]
fn artifacts_without_an_action_travel_too() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let digest = publish(&alice, &contents()).digest;
    let (none, wanted) = (BTreeSet::new(), BTreeSet::from([digest, Digest::of(b"nobody's")]));
    let pushed = alice.push(&server.remote(), &none, &wanted, &|_, _| {}).unwrap();
    assert_eq!((pushed.artifacts, pushed.missing), (1, vec![Digest::of(b"nobody's")]));
    let pulled = bob.pull(&server.remote(), &none, &wanted, &|_, _| {}).unwrap();
    assert_eq!((pulled.artifacts, pulled.missing), (1, vec![Digest::of(b"nobody's")]));
    assert_eq!(tree_digest(&bob.artifact(&digest).unwrap().unwrap()).unwrap(), digest);
}

#[test]
fn a_store_behind_any_web_server_is_a_remote_to_read_from() {
    let Two { alice, bob, _temp } = two();
    let digest = compute(&alice, "a", &contents());
    let server = Server::files(alice.root().to_path_buf());
    let remote = Remote::open(&server.url()).unwrap();
    assert!(remote.is_read_only());
    assert_eq!(pull(&bob, &remote, &["a", "b"]).unwrap().missing, [*key("b").as_digest()]);
    assert_has(&bob, "a", &digest);
    assert!(matches!(push(&bob, &remote, &["a"]), Err(Error::ReadOnlyRemote(_))));
}

#[test]
fn large_files_travel_in_parts() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let large: Vec<u8> = (0..21_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let digest = compute(&alice, "large", &[("shard".to_owned(), large)].into());
    let most = std::sync::Mutex::new((0, 0));
    let told = |done, total| {
        let mut most = most.lock().unwrap();
        *most = (most.0.max(done), total);
    };
    alice.push(&server.remote(), &keys(&["large"]), &BTreeSet::new(), &told).unwrap();
    assert_eq!(*most.lock().unwrap(), (21_000_003, 21_000_003));
    pull(&bob, &server.remote(), &["large"]).unwrap();
    assert_has(&bob, "large", &digest);
}

#[test]
fn a_wrong_secret_is_told_and_never_shown() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    compute(&alice, "a", &contents());
    let remote = server.remote_with("another-secret");
    for error in [push(&alice, &remote, &["a"]).unwrap_err(), pull(&bob, &remote, &["a"]).unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains("s3://bucket/team/cache") && text.contains("credentials"), "{text}");
        assert!(!text.contains("another-secret"), "{text}");
    }
    assert_has_nothing(&bob, "a");
    let with_password = Remote::open("https://somebody:hidden@host.invalid/cache?token=hidden").unwrap();
    assert_eq!(with_password.url(), "https://host.invalid/cache");
    assert!(!format!("{with_password:?}").contains("hidden"));
}

#[test]
fn what_is_no_remote_is_told() {
    let refused = |url: &str| match Remote::open(url) {
        Err(Error::RemoteUrl { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused("/a/folder").contains("relative URL"), "{}", refused("/a/folder"));
    assert!(refused("ftp://host/x").contains("`ftp`"));
    assert!(refused("file:///not/there").contains("no such folder"));
    let unknown = Remote::open_with("s3://bucket", &[("colour".to_owned(), "red".to_owned())].into());
    assert!(unknown.unwrap_err().to_string().contains("`colour`"));
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let digest = compute(&alice, "a", &contents());
    for fault in [Fault::Busy, Fault::LostReply] {
        server.misbehave(fault, None, 1, 2);
        push(&alice, &server.remote(), &["a"]).unwrap();
        server.misbehave(fault, None, 1, 2);
        pull(&bob, &server.remote(), &["a"]).unwrap();
        assert_has(&bob, "a", &digest);
    }
}

#[test]
fn whichever_reply_is_lost_the_remote_is_whole() {
    let server = Server::s3();
    let mut lost = 0;
    loop {
        let Two { alice, bob, _temp } = two();
        let name = format!("action {lost}");
        let content = files(&[("zarr.json", "{}"), ("c/0", &name)]);
        let digest = compute(&alice, &name, &content);
        server.misbehave(Fault::LostReply, Some(Method::PUT), lost, 1);
        push(&alice, &server.remote(), &[&name]).unwrap();
        let writes = server.seen();
        server.behave();
        pull(&bob, &server.remote(), &[&name]).unwrap();
        assert_has(&bob, &name, &digest);
        if lost >= writes {
            assert!(lost >= 3, "a file, a manifest and a record at least");
            return;
        }
        lost += 1;
    }
}

/// At each request in turn the server stops to answer: what is pushed until then can be used or is not seen, and the next
/// push goes on.
#[test]
fn a_push_that_is_cut_anywhere_leaves_nothing_half_done() {
    let mut answered = 0;
    loop {
        let server = Server::s3();
        let Two { alice, bob, _temp } = two();
        let digest = compute(&alice, "a", &contents());
        server.misbehave(Fault::Denied, None, answered, usize::MAX);
        let cut = push(&alice, &server.remote(), &["a"]);
        server.behave();
        let pulled = pull(&bob, &server.remote(), &["a"]).unwrap();
        if pulled.missing.is_empty() {
            assert_has(&bob, "a", &digest);
        } else {
            assert!(cut.is_err());
            assert_has_nothing(&bob, "a");
        }
        push(&alice, &server.remote(), &["a"]).unwrap();
        pull(&bob, &server.remote(), &["a"]).unwrap();
        assert_has(&bob, "a", &digest);
        if cut.is_ok() {
            assert!(answered >= 8, "only {answered} requests were seen");
            return;
        }
        answered += 1;
    }
}

#[test]
fn a_pull_that_is_cut_or_changed_anywhere_leaves_nothing_half_done() {
    for fault in [Fault::Denied, Fault::ChangedBody] {
        let server = Server::s3();
        let Two { alice, bob, _temp } = two();
        let digest = compute(&alice, "a", &contents());
        push(&alice, &server.remote(), &["a"]).unwrap();
        let mut answered = 0;
        loop {
            server.misbehave(fault, Some(Method::GET), answered, usize::MAX);
            let cut = pull(&bob, &server.remote(), &["a"]);
            if cut.as_ref().is_ok_and(|pulled| pulled.missing.is_empty()) {
                break;
            }
            assert_has_nothing(&bob, "a");
            answered += 1;
        }
        assert!(answered >= 5, "only {answered} requests were seen");
        assert_has(&bob, "a", &digest);
    }
}

#[test]
fn what_arrives_cut_is_asked_for_again() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let digest = compute(&alice, "a", &contents());
    push(&alice, &server.remote(), &["a"]).unwrap();
    for skip in 0..4 {
        server.misbehave(Fault::CutBody, Some(Method::GET), skip, 1);
        let _ = pull(&bob, &server.remote(), &["a"]).unwrap();
    }
    assert_has(&bob, "a", &digest);
}

#[test]
fn what_is_damaged_there_is_not_taken_and_the_next_push_mends_it() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let digest = compute(&alice, "a", &contents());
    push(&alice, &server.remote(), &["a"]).unwrap();
    let object = |kind: &str, digest: &Digest| {
        let hex = digest.to_string();
        server.objects().join("v1").join(kind).join(&hex[..2]).join(&hex[2..])
    };
    let damages: [(&str, std::path::PathBuf, &[u8]); 4] = [
        ("bytes", object("files", &Digest::of(b"second")), b"SECOND"),
        ("length", object("files", &Digest::of(b"first")), b"fir"),
        ("manifest", object("artifacts", &digest).join("manifest"), b"what?"),
        ("record", object("actions", key("a").as_digest()).join("record.json"), b"{\"version\": 1"),
    ];
    for (what, place, bytes) in damages {
        fs::write(&place, bytes).unwrap();
        let remote = server.remote();
        match pull(&bob, &remote, &["a"]) {
            Ok(pulled) => assert_eq!((what, pulled.missing.len()), ("record", 1)),
            Err(error) => assert!(matches!(error, Error::Remote { .. }), "{what}: {error}"),
        }
        assert_has_nothing(&bob, "a");
        // Through the same remote, which remembers what it cannot believe.
        push(&alice, &remote, &["a"]).unwrap();
        let carol = Store::open(&server.objects().join(format!("../carol-{what}"))).unwrap();
        pull(&carol, &server.remote(), &["a"]).unwrap();
        assert_has(&carol, "a", &digest);
    }
}

#[test]
fn results_that_disagree_are_kept_beside_each_other() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let first = compute(&alice, "a", &contents());
    let second = compute(&bob, "a", &files(&[("zarr.json", "{\"other\": 1}")]));
    push(&alice, &server.remote(), &["a"]).unwrap();
    let pushed = push(&bob, &server.remote(), &["a"]).unwrap();
    assert_eq!((pushed.records, pushed.different), (0, keys(&["a"])));
    assert_has(&bob, "a", &second);
    let carol = Store::open(&bob.root().join("../carol")).unwrap();
    pull(&carol, &server.remote(), &["a"]).unwrap();
    assert_has(&carol, "a", &first);
    let hex = key("a").to_string();
    let seen = server.objects().join("v1/actions").join(&hex[..2]).join(&hex[2..]).join("seen");
    assert_eq!(fs::read_dir(seen).unwrap().count(), 1);
}

#[test]
fn what_is_damaged_here_is_not_given_to_others() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    let digest = compute(&alice, "a", &contents());
    let file = within(&alice, "artifacts", &digest).join("tree/c/0/1");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, "SECOND").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let error = push(&alice, &server.remote(), &["a"]).unwrap_err();
    assert!(matches!(&error, Error::Damaged { path } if *path == file), "{error}");
    assert_eq!(pull(&bob, &server.remote(), &["a"]).unwrap().missing.len(), 1);
}

#[test]
fn a_remote_of_a_later_version_is_left_alone() {
    let server = Server::s3();
    let Two { alice, bob, _temp } = two();
    compute(&alice, "a", &contents());
    fs::create_dir_all(server.objects()).unwrap();
    fs::write(server.objects().join("FORMAT"), "restage-cache 2\n").unwrap();
    assert!(matches!(push(&alice, &server.remote(), &["a"]), Err(Error::NewerFormat { found: 2, .. })));
    assert!(matches!(pull(&bob, &server.remote(), &["a"]), Err(Error::NewerFormat { found: 2, .. })));
    assert_eq!(fs::read_dir(server.objects()).unwrap().count(), 1);
}
