//! The plugin's side of the ABI: what [`export!`](crate::export!) puts behind the table of C functions.
//!
//! Every function catches panics: none may leave through `extern "C"`, which would abort the host.

use std::{
    any::Any,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

use crate::{
    Error,
    abi::{self, Bytes, Host, Sink, Status},
    catalogue::Catalogue,
    context::{Context, Listener},
    forward,
    stage::Entry,
    task::{Event, Task},
};

/// A plugin: its name and its stage types. Implemented by [`export!`](crate::export!).
pub trait Library: 'static {
    /// The plugin's name.
    const NAME: &'static str;
    /// The plugin's version.
    const VERSION: &'static str;
    /// Its stage types.
    const STAGES: &'static [Entry];
}

/// The table of a library's C functions.
pub const fn plugin<L: Library>() -> abi::Plugin {
    abi::Plugin {
        magic: abi::MAGIC,
        size: size_of::<abi::Plugin>() as u32,
        major: abi::MAJOR,
        minor: abi::MINOR,
        describe: describe::<L>,
        check: check::<L>,
        open: open::<L>,
        run: run::<L>,
        close,
    }
}

/// Makes a library a restage plugin: `export!("visium"; Load, Simulate);`
#[macro_export]
macro_rules! export {
    ($name:literal; $($stage:ty),+ $(,)?) => {
        struct RestageLibrary;
        impl $crate::export::Library for RestageLibrary {
            const NAME: &'static str = $name;
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            const STAGES: &'static [$crate::stage::Entry] = &[$($crate::stage::Entry::of::<$stage>()),+];
        }
        static RESTAGE_PLUGIN: $crate::abi::Plugin = $crate::export::plugin::<RestageLibrary>();

        /// The plugin's only entry point.
        #[expect(unsafe_code, reason = "a C symbol of a fixed name is what the host looks up")]
        // SAFETY: the name is reserved for this purpose, and a library exports it once.
        #[unsafe(no_mangle)]
        pub extern "C" fn restage_plugin_entry_v1() -> *const $crate::abi::Plugin {
            &RESTAGE_PLUGIN
        }
    };
}

/// The open connection to a host.
struct Session {
    host: *const Host,
}

/// Speaks to the host through its callbacks.
#[derive(Clone, Copy)]
struct HostListener(*const Host);

// SAFETY: the ABI allows the host's callbacks from any thread, and the host outlives the session.
#[expect(unsafe_code, reason = "the callbacks of `Host` are thread-safe by contract")]
unsafe impl Send for HostListener {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "the callbacks of `Host` are thread-safe by contract")]
unsafe impl Sync for HostListener {}

#[expect(unsafe_code, reason = "calls through the host's table")]
impl Listener for HostListener {
    fn emit(&self, event: &Event) {
        let Ok(json) = serde_json::to_vec(event) else { return };
        // SAFETY: the host lives as long as the session; the bytes live for the call.
        unsafe { ((*self.0).emit)((*self.0).ctx, Bytes::lend(&json)) }
    }

    fn cancelled(&self) -> bool {
        // SAFETY: the host lives as long as the session.
        unsafe { ((*self.0).cancelled)((*self.0).ctx) != 0 }
    }
}

/// Writes to a sink that the caller of the C function supplied.
#[expect(unsafe_code, reason = "calls through the caller's sink")]
fn answer(sink: *const Sink, bytes: &[u8]) {
    // SAFETY: a sink is valid for the length of the call that it was passed to, and copies what it is given.
    unsafe { ((*sink).write)((*sink).ctx, Bytes::lend(bytes)) }
}

/// Runs `body` and turns its end, a panic included, into a status and a message.
fn guarded(sink: *const Sink, body: impl FnOnce() -> crate::Result<()>) -> u32 {
    let status = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(Error::Cancelled)) => Status::Cancelled,
        Ok(Err(error)) => {
            answer(sink, &serde_json::to_vec(&error.chain()).unwrap_or_default());
            Status::Failed
        }
        Err(payload) => {
            let message = take_panic().unwrap_or_else(|| panic_text(payload.as_ref()));
            // The payload's own `Drop` may panic.
            std::mem::forget(payload);
            answer(sink, &serde_json::to_vec(&[message]).unwrap_or_default());
            Status::Panicked
        }
    };
    status as u32
}

/// The last panic's message with its place; the hook runs on the panicking thread, which may be a worker.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

fn take_panic() -> Option<String> {
    LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked with a value that is not text".into())
}

fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        let message = panic_text(info.payload()) + &place.unwrap_or_default();
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }));
}

#[expect(unsafe_code, reason = "C signature of the ABI")]
unsafe extern "C" fn describe<L: Library>(sink: *const Sink) -> u32 {
    guarded(sink, || {
        let stages = L::STAGES.iter().map(|entry| (entry.describe)()).collect();
        let catalogue = Catalogue { plugin: L::NAME.into(), version: L::VERSION.into(), stages };
        answer(sink, &serde_json::to_vec(&catalogue).map_err(Error::other("cannot write the catalogue"))?);
        Ok(())
    })
}

fn entry<L: Library>(name: &str) -> crate::Result<&'static Entry> {
    L::STAGES
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| Error::invalid(format!("plugin `{}` has no stage type `{name}`", L::NAME)))
}

#[expect(unsafe_code, reason = "C signature of the ABI; reads lent bytes")]
unsafe extern "C" fn check<L: Library>(stage: Bytes, params: Bytes, sink: *const Sink) -> u32 {
    guarded(sink, || {
        // SAFETY: the caller lends both for the length of this call.
        let (stage, params) = unsafe { (stage.as_slice(), params.as_slice()) };
        let stage = str::from_utf8(stage).map_err(Error::other("the stage's name is not UTF-8"))?;
        let params = serde_json::from_slice(params).map_err(Error::other("the params are not JSON"))?;
        let canonical = (entry::<L>(stage)?.check)(params)?;
        answer(sink, &serde_json::to_vec(&canonical).map_err(Error::other("cannot write the params"))?);
        Ok(())
    })
}

#[expect(unsafe_code, reason = "C signature of the ABI; hands the session out as a pointer")]
unsafe extern "C" fn open<L: Library>(host: *const Host, session: *mut *mut c_void) -> u32 {
    keep_panics();
    forward::install(L::NAME, Box::new(HostListener(host)));
    // SAFETY: the caller passes a place for the session.
    unsafe { *session = Box::into_raw(Box::new(Session { host })).cast() };
    Status::Ok as u32
}

#[expect(unsafe_code, reason = "C signature of the ABI; reads lent bytes and the session")]
unsafe extern "C" fn run<L: Library>(session: *mut c_void, task: Bytes, error: *const Sink) -> u32 {
    guarded(error, || {
        // SAFETY: the session is the one that `open` made, and the task is lent for this call.
        let (session, task) = unsafe { (&*session.cast::<Session>(), task.as_slice()) };
        let task: Task = serde_json::from_slice(task).map_err(Error::other("the task is not one"))?;
        let entry = entry::<L>(&task.stage)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(task.threads)
            .build()
            .map_err(Error::other("cannot start the stage's threads"))?;
        let params = task.params.clone();
        let context = Context::new(task, Box::new(HostListener(session.host)));
        pool.install(|| (entry.run)(params, &context))
    })
}

#[expect(unsafe_code, reason = "C signature of the ABI; takes the session back")]
unsafe extern "C" fn close(session: *mut c_void) {
    if !session.is_null() {
        // SAFETY: `open` made it with `Box::into_raw`, and the ABI closes a session once.
        drop(unsafe { Box::from_raw(session.cast::<Session>()) });
    }
}
