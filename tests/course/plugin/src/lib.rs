//! A plugin without dependencies of its own, built in a second: `course/text` writes a text, `course/score` counts its words.
//! What is JSON here is found by hand; `stages/sdk/src/abi.rs` says who owns what.

use std::{ffi::c_void, fs, io, path::Path, ptr::null_mut, slice, time::Duration};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes(*const u8, usize);

#[repr(C)]
pub struct Sink(*mut c_void, extern "C" fn(*mut c_void, Bytes));

#[repr(C)]
pub struct Plugin {
    magic: u64,
    size: u32,
    major: u16,
    minor: u16,
    describe: extern "C" fn(*const Sink) -> u32,
    check: extern "C" fn(Bytes, Bytes, *const Sink) -> u32,
    open: extern "C" fn(*const c_void, *mut *mut c_void) -> u32,
    run: extern "C" fn(*mut c_void, Bytes, *const Sink) -> u32,
    close: extern "C" fn(*mut c_void),
}

const CATALOGUE: &str = r#"{"plugin": "course", "version": "1", "stages": [
  {"name": "text", "doc": "Writes a text.", "seeded": false, "inputs": [],
   "outputs": [{"name": "text", "type": "any", "doc": "It."}],
   "params": {"type": "object", "additionalProperties": false, "properties": {
     "text": {"type": "string", "description": "It."},
     "wait": {"type": "integer", "description": "Milliseconds to take, with a checkpoint."},
     "files": {"type": "integer", "description": "How many more files to write."}}}},
  {"name": "score", "doc": "Counts words.", "seeded": false,
   "inputs": [{"name": "text", "type": "any", "doc": "A text.", "many": false, "optional": false}],
   "outputs": [{"name": "scores", "type": "metrics", "doc": "`words`."}],
   "params": {"type": "object", "additionalProperties": false, "properties": {
     "scale": {"type": "integer", "description": "What a word counts."}}}}]}"#;

fn text<'a>(bytes: Bytes) -> &'a str {
    // SAFETY: lent by the host for the length of the call, and JSON.
    unsafe { str::from_utf8(slice::from_raw_parts(bytes.0, bytes.1)).unwrap_or_default() }
}

fn answer(sink: *const Sink, text: &str) {
    // SAFETY: the host's sink outlives the call, and copies.
    unsafe { ((*sink).1)((*sink).0, Bytes(text.as_ptr(), text.len())) }
}

extern "C" fn describe(sink: *const Sink) -> u32 {
    answer(sink, CATALOGUE);
    0
}

extern "C" fn check(_stage: Bytes, params: Bytes, sink: *const Sink) -> u32 {
    answer(sink, text(params));
    0
}

extern "C" fn open(_host: *const c_void, session: *mut *mut c_void) -> u32 {
    // SAFETY: the host's own.
    unsafe { *session = null_mut() };
    0
}

extern "C" fn close(_session: *mut c_void) {}

extern "C" fn run(_session: *mut c_void, task: Bytes, error: *const Sink) -> u32 {
    let task = text(task);
    let done = if task.contains("\"stage\":\"text\"") { write(task) } else { score(task) };
    let Err(why) = done else { return 0 };
    answer(error, &format!("[{:?}]", why.to_string()));
    1
}

/// What stands in the task between these words and the next quote, comma or brace.
fn find<'a>(task: &'a str, before: &str) -> &'a str {
    let after = task.split_once(before).map_or("", |(_, after)| after);
    after.split(['"', ',', '}']).next().unwrap_or("")
}

fn write(task: &str) -> io::Result<()> {
    let wait: u64 = find(task, "\"wait\":").parse().unwrap_or(0);
    let checkpoints = Path::new(find(task, "\"scratch\":\"")).join("checkpoints");
    if wait > 0 {
        fs::create_dir_all(&checkpoints)?;
        let steps = checkpoints.join("steps");
        let mut done: u64 = fs::read_to_string(&steps).unwrap_or_default().trim().parse().unwrap_or(0);
        while done < wait {
            std::thread::sleep(Duration::from_millis(10));
            done += 10;
            fs::write(&steps, done.to_string())?;
        }
    }
    let folder = Path::new(find(task, "\"outputs\":{\"text\":\""));
    fs::create_dir_all(folder.join("about"))?;
    fs::write(folder.join("about/notice"), "what all texts have\n".repeat(100))?;
    let text = task.split_once("\"params\":").map_or("", |(_, params)| find(params, "\"text\":\""));
    for number in 0..find(task, "\"files\":").parse().unwrap_or(0) {
        fs::write(folder.join(number.to_string()), format!("{text} {number}"))?;
    }
    fs::write(folder.join("text"), text)
}

fn score(task: &str) -> io::Result<()> {
    let from = Path::new(find(task, "\"inputs\":{\"text\":[\""));
    let scale: usize = find(task, "\"scale\":").parse().unwrap_or(1);
    let words = words::count(&fs::read_to_string(from.join("text"))?) * scale;
    let folder = Path::new(find(task, "\"outputs\":{\"scores\":\""));
    fs::create_dir_all(folder)?;
    let group = format!("{{\"zarr_format\":3,\"node_type\":\"group\",\"attributes\":{{\"metrics\":{{\"words\":{words}}}}}}}");
    fs::write(folder.join("zarr.json"), group)
}

static PLUGIN: Plugin = Plugin {
    magic: u64::from_le_bytes(*b"RESTAGE1"),
    size: size_of::<Plugin>() as u32,
    major: 1,
    minor: 0,
    describe,
    check,
    open,
    run,
    close,
};

#[unsafe(no_mangle)]
pub extern "C" fn restage_plugin_entry_v1() -> *const Plugin {
    &PLUGIN
}
