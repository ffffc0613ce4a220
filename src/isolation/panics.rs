//! Catching panics, and a panic hook that logs instead of printing.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    pin::Pin,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether the code that runs on this thread is inside [`catch`].
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
    /// The location of the panic that is being caught.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The number of panics since the start of the process.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Logs panics that are not caught, such as those of threads, instead of printing them on standard error, which may block.
/// Panics that are caught are logged by whoever catches them.
pub fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| panic::set_hook(Box::new(hook)));
}

fn hook(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    if IS_CATCHING.get() {
        LOCATION.set(location);
        return;
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    let panic = Panic { message: message(info.payload()), location };
    let thread = thread::current();
    tracing::error!(error.message = %panic, thread.name = thread.name().unwrap_or_default(), "a thread or task panicked");
}

/// A panic that was caught.
#[derive(Debug)]
pub struct Panic {
    message: &'static str,
    location: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "panicked at {}: {}",
            self.location.as_deref().unwrap_or("an unknown location"),
            self.message
        )
    }
}

/// Returns the message of a panic if it is a literal. A formatted message may contain data such as a password, so only the
/// location of the panic is logged.
fn message(payload: &(dyn Any + Send)) -> &'static str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("(the message may hold secrets and is not logged)")
}

/// Runs `work` and catches a panic in it. The caller logs the panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    let outer = IS_CATCHING.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CATCHING.set(outer);
    result.map_err(|payload| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Panic { message: message(&*payload), location: LOCATION.take() }
    })
}

/// Polls a future and catches a panic in it, after which the future must not be polled again. Allocates only after a panic.
/// The caller logs the panic.
pub fn poll<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Result<F::Output, Panic>> {
    match catch(|| future.poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

/// Awaits a future and catches a panic in it. The caller logs the panic.
pub async fn caught<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, Panic> {
    poll_fn(|cx| poll(future.as_mut(), cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_counted_without_its_formatted_message() {
        let before = count();
        assert_eq!(catch(|| 7).unwrap(), 7);
        let fixed = catch(|| panic!("this is meant to happen")).unwrap_err().to_string();
        assert!(fixed.ends_with(": this is meant to happen"), "{fixed}");
        // Keeps the compiler from formatting the message at compile time.
        let password = std::hint::black_box("hunter2");
        let formatted = catch(|| panic!("the password is {password}")).unwrap_err().to_string();
        assert!(!formatted.contains("hunter2"), "{formatted}");
        // Other tests may panic at the same time.
        assert!(count() >= before + 2);
        assert!(!IS_CATCHING.get());
    }
}
