//! The C ABI between a plugin and the host process that loads it, version 1.
//!
//! **Ownership.** No memory changes owner. [`Bytes`] are lent for the length of one call; whoever wants to keep
//! them copies. Answers go through a [`Sink`] that the caller supplies and whose `write` copies before it returns.
//! **Growth.** [`Plugin`] and [`Host`] grow only at the end; each begins with what the other side needs to see
//! how much of it is there. A `major` that differs is refused; a larger `minor` only adds. The version is the
//! ABI's own and says nothing about restage's version.
//! **Lifetime.** A library is never unloaded: the host process ends instead.
//! **Threads.** `describe`, `check`, `open`, `run` and `close` are called one at a time, not always by the same thread:
//! each `run` has a thread of its own, which may touch only what its task declares. Threads that it starts inherit that,
//! and must end with it. The callbacks of [`Host`] may be called from any thread until `run` returns.

use std::ffi::c_void;

/// First word of every [`Plugin`]: `RESTAGE1` read as little-endian bytes.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RESTAGE1");
/// ABI version that must be equal on both sides.
pub const MAJOR: u16 = 1;
/// ABI version that may differ: a larger one only adds.
pub const MINOR: u16 = 0;
/// The one symbol a plugin exports: `extern "C" fn() -> *const Plugin`.
pub const ENTRY: &str = "restage_plugin_entry_v1";

/// What a call into a plugin ended with; any other value is a violation of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The stage says that it could not; the sink holds a JSON array of messages, outermost first.
    Failed = 1,
    /// The stage panicked; the sink holds the message and its place in the source.
    Panicked = 2,
    /// The stage stopped because it was asked to.
    Cancelled = 3,
    /// The plugin does not know the stage type or the request.
    Unsupported = 4,
}

impl Status {
    /// The status of a number that came over the boundary, if it is one.
    pub fn from_raw(raw: u32) -> Option<Self> {
        [Self::Ok, Self::Failed, Self::Panicked, Self::Cancelled, Self::Unsupported]
            .into_iter()
            .find(|status| *status as u32 == raw)
    }
}

/// Bytes that are lent for the length of a call. A null pointer goes with a length of zero.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bytes {
    /// The first byte.
    pub ptr: *const u8,
    /// How many there are.
    pub len: usize,
}

impl Bytes {
    /// Lends a slice.
    pub fn lend(slice: &[u8]) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len() }
    }

    /// The bytes, for as long as the lender keeps them.
    ///
    /// # Safety
    /// `ptr` must point to `len` readable bytes that live and do not change during `'a`, or be null with `len == 0`.
    #[expect(unsafe_code, reason = "reading memory lent over the C boundary")]
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: not null, and the caller promises the rest.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// Where the callee writes an answer of any length; `write` appends and copies.
#[repr(C)]
pub struct Sink {
    /// The caller's own; handed back with each write.
    pub ctx: *mut c_void,
    /// Appends the bytes.
    pub write: unsafe extern "C" fn(ctx: *mut c_void, bytes: Bytes),
}

/// What a plugin offers.
#[repr(C)]
pub struct Plugin {
    /// [`MAGIC`].
    pub magic: u64,
    /// `size_of::<Plugin>()` on the plugin's side.
    pub size: u32,
    /// [`MAJOR`].
    pub major: u16,
    /// [`MINOR`].
    pub minor: u16,
    /// Writes the [catalogue](crate::catalogue::Catalogue) as JSON.
    pub describe: unsafe extern "C" fn(sink: *const Sink) -> u32,
    /// Validates a stage's params (JSON) and writes them in canonical form, defaults filled.
    pub check: unsafe extern "C" fn(stage: Bytes, params: Bytes, sink: *const Sink) -> u32,
    /// Begins a session; `host` outlives it.
    pub open: unsafe extern "C" fn(host: *const Host, session: *mut *mut c_void) -> u32,
    /// Runs one [task](crate::task::Task) (JSON) to its end. Errors go to the sink.
    pub run: unsafe extern "C" fn(session: *mut c_void, task: Bytes, error: *const Sink) -> u32,
    /// Ends a session.
    pub close: unsafe extern "C" fn(session: *mut c_void),
}

/// What a host offers to the plugin that it loaded.
#[repr(C)]
pub struct Host {
    /// `size_of::<Host>()` on the host's side.
    pub size: u32,
    /// [`MAJOR`].
    pub major: u16,
    /// [`MINOR`].
    pub minor: u16,
    /// The host's own; handed back with each call.
    pub ctx: *mut c_void,
    /// Takes one [event](crate::task::Event) (JSON). May be called from any thread.
    pub emit: unsafe extern "C" fn(ctx: *mut c_void, event: Bytes),
    /// 1 once the running task should stop. Cheap. May be called from any thread.
    pub cancelled: unsafe extern "C" fn(ctx: *mut c_void) -> u32,
}
