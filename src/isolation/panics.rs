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
    /// Whoever runs here catches panics, and logs them.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
    /// Where the panic that is being caught has occurred.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics since the process began.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Has panics logged that nobody here catches, such as those of threads, instead of printed on standard error, which
/// may block. Panics that are caught are logged where they are caught.
pub fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| panic::set_hook(Box::new(hook)));
}

fn hook(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    if CAUGHT.get() {
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
        write!(f, "panicked at {}: {}", self.location.as_deref().unwrap_or("an unknown place"), self.message)
    }
}

/// What a panic says, where that is fixed text. A formatted message may hold what the code was working on, and so a
/// password: the location has to do.
fn message(payload: &(dyn Any + Send)) -> &'static str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("(the message may hold secrets and is not logged)")
}

/// Runs `work` and catches a panic in it. The caller logs the panic.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    let outer = CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    outcome.map_err(|payload| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Panic { message: message(&*payload), location: LOCATION.take() }
    })
}

/// Polls a future and catches a panic in it, after which the future must not be polled again. Without an allocation
/// unless it panics. The caller logs the panic.
pub fn poll<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Result<F::Output, Panic>> {
    match catch(|| future.poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

/// What a future comes to, or the panic in it. The caller logs the panic.
pub async fn caught<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, Panic> {
    poll_fn(|cx| poll(future.as_mut(), cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_and_counted_and_what_was_formatted_is_not_shown() {
        let before = count();
        assert_eq!(catch(|| 7).unwrap(), 7);
        let fixed = catch(|| panic!("this is meant to happen")).unwrap_err().to_string();
        assert!(fixed.ends_with(": this is meant to happen"), "{fixed}");
        // Not known when this is compiled.
        let password = std::hint::black_box("hunter2");
        let formatted = catch(|| panic!("the password is {password}")).unwrap_err().to_string();
        assert!(!formatted.contains("hunter2"), "{formatted}");
        // Other tests panic, too.
        assert!(count() >= before + 2);
        assert!(!CAUGHT.get());
    }
}
