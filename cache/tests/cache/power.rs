//! Power cuts, on a real ext4: whatever has a final name is whole, and what was recorded is there.
//!
//! The file system lies in an image that is mounted here, which takes root; elsewhere the test is skipped, and says so.
//! It is cut by ext4's own shutdown, without a flush of its journal: from that instant on nothing reaches the image, and
//! what had not by then is lost, as when the power goes. Disks that lose or reorder what they took are ext4's matter.

#![expect(unsafe_code, reason = "the shutdown is an ioctl that nobody wraps")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::child::{DONE, await_work, check_all, command, once};
use crate::kill::temp;
use restage_cache::Store;

const CUTS: usize = 30;
/// After so many cuts the image is made anew, so that a store that begins is cut too.
const STORES: usize = 10;
/// ext4 shall give a file that is replaced no blocks of its own accord, and in every second round it need not bring bytes
/// to disk before the names that lead to them.
const OPTIONS: [&str; 2] = ["loop,noauto_da_alloc", "loop,noauto_da_alloc,data=writeback"];

/// `EXT4_IOC_SHUTDOWN`, and its argument: at once, flush nothing.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
const NO_FLUSH: u32 = 2;

/// Runs a program. What it says if it fails, or is not there.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    match Command::new(program).args(args).output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(format!("{program}: {}", String::from_utf8_lossy(&stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// A mounted image. Unmounted when dropped, also in a panic.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, folder: &Path, options: &str) -> Result<Mounted, String> {
        run("mount", &["-t", "ext4", "-o", options, image.to_str().unwrap(), folder.to_str().unwrap()])?;
        Ok(Mounted(folder.to_path_buf()))
    }

    /// From now on nothing is written.
    fn cut(&self) -> Result<(), Errno> {
        let folder = File::open(&self.0).unwrap();
        // SAFETY: this request reads a number of 32 bits, which lives until it returns.
        unsafe { ioctl(folder, Setter::<SHUTDOWN, u32>::new(NO_FLUSH)) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let folder = self.0.to_str().unwrap();
        // Somebody may look at it just now: then it goes when they are done.
        if run("umount", &[folder]).is_err() {
            drop(run("umount", &["--lazy", folder]));
        }
    }
}

/// A child that dies with the test.
struct Worker(Child);

impl Worker {
    /// Kills it. What it has said.
    fn end(&mut self) -> String {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    fn assert_at_work(&mut self) {
        let ended = self.0.try_wait().unwrap();
        let mut why = String::new();
        if ended.is_some() {
            self.0.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        }
        assert!(ended.is_none(), "a child failed: {why}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn format(image: &Path) -> Result<(), String> {
    File::create(image).and_then(|file| file.set_len(128 << 20)).unwrap();
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])
}

/// Why no file system can be cut here.
fn obstacle(image: &Path, folder: &Path) -> Option<String> {
    let cut =
        || Mounted::new(image, folder, OPTIONS[0])?.cut().map_err(|error| format!("its shutdown: {error}"));
    format(image).and_then(|()| cut()).err()
}

/// Lets a process work at the store, and cuts the power. The actions that it has recorded.
fn work_and_cut(image: &Path, folder: &Path, round: usize) -> Vec<usize> {
    let mounted = Mounted::new(image, folder, OPTIONS[round % 2]).unwrap();
    let root = folder.join("cache");
    let spawn = |work| Worker(command(&root, work, "").stderr(Stdio::piped()).spawn().unwrap());
    let mut writer = spawn("tell");
    // Sometimes a store is cut that has just been opened, or has not yet.
    if !round.is_multiple_of(5) {
        await_work(&mut writer.0);
    }
    // In some rounds nothing is flushed but by us.
    let mut other = (!round.is_multiple_of(3)).then(|| spawn("flush"));
    std::thread::sleep(Duration::from_micros(round as u64 * 27_919 % 150_000));
    writer.assert_at_work();
    mounted.cut().unwrap();
    let said = writer.end();
    other.as_mut().map(Worker::end);
    said.lines().filter_map(|line| line.strip_prefix(DONE)?.parse().ok()).collect()
}

#[test]
fn a_power_cut_leaves_hits_and_misses_only() {
    let temp = temp();
    let (image, folder) = (temp.path().join("image"), temp.path().join("mounted"));
    fs::create_dir(&folder).unwrap();
    if let Some(why) = obstacle(&image, &folder) {
        // Not captured, as what is printed by a test that passes is.
        writeln!(std::io::stderr(), "skipped: no file system can be cut here ({why})").unwrap();
        return;
    }
    let mut recorded = 0;
    let mut sum = 0;
    for round in 0..CUTS {
        if round % STORES == 0 {
            format(&image).unwrap();
            recorded = 0;
        }
        let told = work_and_cut(&image, &folder, round);
        let _mounted = Mounted::new(&image, &folder, "loop").unwrap();
        let root = folder.join("cache");
        // Actions are done in their order. Those that were recorded are there, and perhaps the one after.
        recorded = told.last().map_or(recorded, |last| last + 1);
        let done = check_all(&root, recorded + 2);
        assert!(
            (recorded..recorded + 2).contains(&done),
            "cut {round}: {done} of {recorded} actions are there"
        );
        assert!(once(&Store::open(&root).unwrap(), done, ""), "it is not there, and is done now");
        recorded = done + 1;
        sum += told.len();
    }
    assert!(sum > 0, "no action was ever done");
}
