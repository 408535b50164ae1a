//! Conditional writes, against a server that does them right: `moto`, where Python has it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use restage_cache::{Lookup, Remote, Store};
use tempfile::TempDir;

use crate::common::{files, key, publish, record};

/// Tells its port, and ends when nobody is left to talk to.
const SERVE: &str = "
import sys, threading
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
# It looks whether there is something, then stores: nobody may come between.
one, put = threading.Lock(), S3Response.put_object
def put_alone(self):
    with one:
        return put(self)
S3Response.put_object = put_alone
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
";

struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// `None`, said aloud, where it is not installed.
    fn start() -> Option<Moto> {
        let python = std::env::var("RESTAGE_MOTO_PYTHON").unwrap_or_else(|_| "python3".into());
        let child = Command::new(&python)
            .args(["-c", SERVE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: there is no {python}");
            return None;
        };
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let Ok(port) = line.trim().parse() else {
            child.wait().unwrap();
            eprintln!("skipped: {python} has no moto (pip install 'moto[server]')");
            return None;
        };
        let moto = Moto { child, port };
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let request = "PUT /bucket HTTP/1.1\r\nHost: s3.amazonaws.com\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(moto)
    }

    fn remote(&self) -> Remote {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let settings = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_access_key_id", "anybody"),
            ("aws_secret_access_key", "anything"),
            ("aws_region", "us-east-1"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Remote::open_with("s3://bucket/race", &settings).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn of_many_who_push_another_result_at_once_one_is_first_and_all_know_it() {
    let Some(moto) = Moto::start() else { return };
    let temp = TempDir::new().unwrap();
    let keys = BTreeSet::from([key("raced")]);
    let pushed: Vec<_> = std::thread::scope(|scope| {
        let push = |number: usize| {
            let store = Store::open(&temp.path().join(number.to_string())).unwrap();
            let digest = publish(&store, &files(&[("result", &number.to_string())])).digest;
            store.record(&key("raced"), &record(&[("out", digest)])).unwrap();
            (digest, store.push(&moto.remote(), &keys, &BTreeSet::new(), &|_, _| {}).unwrap())
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || push(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let firsts: Vec<_> = pushed.iter().filter(|(_, pushed)| pushed.records == 1).collect();
    assert_eq!(firsts.len(), 1);
    assert_eq!(pushed.iter().filter(|(_, pushed)| pushed.different == keys).count(), 7);
    let other = Store::open(&temp.path().join("other")).unwrap();
    other.pull(&moto.remote(), &keys, &BTreeSet::new(), &|_, _| {}).unwrap();
    assert!(
        matches!(other.lookup(&key("raced")).unwrap(), Lookup::Hit(record) if record.outputs["out"] == firsts[0].0)
    );
}
