//! Loads a plugin library and calls through its table: the engine's only `unsafe`, in the host process only.
#![expect(unsafe_code, reason = "the C ABI: loading a library and calling its functions")]

use std::{ffi::c_void, path::Path};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use restage_stage::{
    abi::{self, Bytes, Host, Plugin, Sink, Status},
    catalogue::Catalogue,
};

use super::serve::Listener;

/// Why a library is not a plugin that this host can use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the library cannot be loaded: {0}")]
    Library(libloading::Error),
    #[error("it is not a restage plugin: it has no `{}`", abi::ENTRY)]
    NoEntry,
    #[error("it is not a restage plugin: its table does not begin with restage's mark")]
    Magic,
    #[error("it speaks version {0} of the plugin ABI, this restage speaks {ours}; rebuild the plugin", ours = abi::MAJOR)]
    Major(u16),
    #[error("its table is cut short: {0} bytes of {whole}", whole = size_of::<Plugin>())]
    Size(u32),
    #[error("it could not begin a session (status {0})")]
    Open(u32),
    #[error("it does not describe itself: {0}")]
    Describe(String),
}

/// A loaded plugin with an open session. Never unloaded: the host process ends instead.
pub(crate) struct Loaded {
    table: &'static Plugin,
    session: *mut c_void,
}

// SAFETY: the ABI has a plugin's functions called by any thread, one at a time; the host serves one request after the other.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    /// Loads a library by its absolute path.
    pub(crate) fn open(library: &Path, listener: &'static Listener) -> Result<Self, LoadError> {
        // SAFETY: loading runs the library's initialisers. That is what a plugin is trusted with; it happens in
        // a host process, whose loss costs one action.
        let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(LoadError::Library)?;
        // Unloading is unsound once a thread-local with a destructor was touched, so the handle is leaked.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the symbol's name is reserved for a function of this type.
        let entry = unsafe { library.get::<unsafe extern "C" fn() -> *const Plugin>(abi::ENTRY.as_bytes()) };
        let entry = entry.map_err(|_| LoadError::NoEntry)?;
        // SAFETY: as above; the function only returns a pointer.
        let table = unsafe { entry() };
        // SAFETY: the entry returns a pointer to a table that lives as long as the library, which is never
        // unloaded. Its head is read before anything that a shorter table may lack.
        let table = unsafe { checked(table)? };
        let host: &'static Host = Box::leak(Box::new(Host {
            size: u32::try_from(size_of::<Host>()).unwrap_or(u32::MAX),
            major: abi::MAJOR,
            minor: abi::MINOR,
            ctx: std::ptr::from_ref(listener).cast_mut().cast(),
            emit,
            cancelled,
        }));
        let mut session = std::ptr::null_mut();
        // SAFETY: `host` lives for ever, `session` for the call.
        let status = unsafe { (table.open)(host, &mut session) };
        match status {
            0 => Ok(Self { table, session }),
            status => Err(LoadError::Open(status)),
        }
    }

    /// What the plugin offers.
    pub(crate) fn describe(&self) -> Result<Catalogue, LoadError> {
        let mut answer = Vec::new();
        // SAFETY: the sink and the buffer behind it live for the call.
        let status = unsafe { (self.table.describe)(&sink(&mut answer)) };
        if status != Status::Ok as u32 {
            return Err(LoadError::Describe(messages(&answer).join(": ")));
        }
        serde_json::from_slice(&answer).map_err(|error| LoadError::Describe(error.to_string()))
    }

    /// Canonical params, or what is wrong with them.
    pub(crate) fn check(&self, stage: &str, params: &[u8]) -> Result<serde_json::Value, Vec<String>> {
        let mut answer = Vec::new();
        // SAFETY: the strings, the sink and the buffer behind it live for the call.
        let status = unsafe {
            (self.table.check)(Bytes::lend(stage.as_bytes()), Bytes::lend(params), &sink(&mut answer))
        };
        if status == Status::Ok as u32 {
            serde_json::from_slice(&answer)
                .map_err(|error| vec![format!("the plugin's answer is not JSON: {error}")])
        } else {
            Err(messages(&answer))
        }
    }

    /// Runs a task to its end: status and messages.
    pub(crate) fn run(&self, task: &[u8]) -> (u32, Vec<String>) {
        let mut answer = Vec::new();
        // SAFETY: the session is open; the task, the sink and the buffer behind it live for the call.
        let status = unsafe { (self.table.run)(self.session, Bytes::lend(task), &sink(&mut answer)) };
        (status, messages(&answer))
    }
}

/// The table, once its head has shown that all of it is there.
///
/// # Safety
/// `table` must be null or point to memory that begins like a [`Plugin`] and is as long as its `size` says.
unsafe fn checked(table: *const Plugin) -> Result<&'static Plugin, LoadError> {
    if table.is_null() {
        return Err(LoadError::Magic);
    }
    // SAFETY: by the contract the head is readable; fields are read one by one, in the order that makes the
    // next one meaningful.
    unsafe {
        if (&raw const (*table).magic).read() != abi::MAGIC {
            return Err(LoadError::Magic);
        }
        let major = (&raw const (*table).major).read();
        if major != abi::MAJOR {
            return Err(LoadError::Major(major));
        }
        let size = (&raw const (*table).size).read();
        if (size as usize) < size_of::<Plugin>() {
            return Err(LoadError::Size(size));
        }
        Ok(&*table)
    }
}

fn messages(answer: &[u8]) -> Vec<String> {
    serde_json::from_slice(answer).unwrap_or_else(|_| vec![String::from_utf8_lossy(answer).into_owned()])
}

fn sink(buffer: &mut Vec<u8>) -> Sink {
    Sink { ctx: std::ptr::from_mut(buffer).cast(), write: append }
}

unsafe extern "C" fn append(ctx: *mut c_void, bytes: Bytes) {
    // SAFETY: `ctx` is the buffer that `sink` was made of, alive and unshared for the call; the bytes are lent.
    unsafe { (*ctx.cast::<Vec<u8>>()).extend_from_slice(bytes.as_slice()) }
}

unsafe extern "C" fn emit(ctx: *mut c_void, event: Bytes) {
    // SAFETY: `ctx` is the listener that `open` was given, which lives for ever and is `Sync`; the bytes are lent.
    let (listener, event) = unsafe { (&*ctx.cast::<Listener>(), event.as_slice()) };
    listener.emit(event);
}

unsafe extern "C" fn cancelled(ctx: *mut c_void) -> u32 {
    // SAFETY: as in `emit`.
    let listener = unsafe { &*ctx.cast::<Listener>() };
    u32::from(listener.is_cancelled())
}
