//! The only place of the runtime that maps files into memory.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::files::{self, Opened};

/// The bytes of a file, read from the disk as they are touched, or bytes that are part of the program.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// The watch goes first: another map may take the address.
    Mapped(#[allow(dead_code, reason = "it is there to be dropped")] lost::Watch, Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a file for reading, unless it is embedded. A program that touches what is no longer there, because the file was cut short meanwhile
    /// or its disk failed, ends with a message that names the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match files::open(path)? {
            Opened::Disk(file) => file,
            Opened::Embedded(bytes) => return Ok(Self::Static(bytes)),
        };
        // SAFETY: the map is read-only and owned by the value returned. That nobody shortens or rewrites the file
        // meanwhile is up to the user, as with every program that maps its model; this library itself only ever
        // replaces files by renaming (`files::Transaction`), which leaves what is mapped as it was.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let watch = lost::watch(path, &map).map_err(Error::io("watch", path))?;
        Ok(Self::Mapped(watch, map))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(_, map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

// SAFETY: the bytes lie in a map or in the program, and `Bytes` only points to them; no method of it takes `&mut self`, so
// they stay where they are, as memmap2 promises of its maps, until it is dropped.
#[cfg(feature = "rag")]
unsafe impl stable_deref_trait::StableDeref for Bytes {}

/// What becomes of a program that touches a page whose file has lost it: SIGBUS, which kills without a word.
#[cfg(unix)]
mod lost {
    use std::collections::HashMap;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};
    use std::sync::{LazyLock, Mutex};

    /// A mapped range, and what to say of it; free where `end` is 0. The signal's handler reads these, so there are no
    /// locks and nothing is ever freed.
    struct Slot {
        start: AtomicUsize,
        end: AtomicUsize,
        message: AtomicPtr<String>,
    }

    /// More files than these are not named.
    static SLOTS: [Slot; 512] = [const {
        Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), message: AtomicPtr::new(ptr::null_mut()) }
    }; 512];

    /// Takes a file off the list when its map is gone.
    #[derive(Debug)]
    pub struct Watch(Option<usize>);

    impl Drop for Watch {
        fn drop(&mut self) {
            if let Some(slot) = self.0 {
                SLOTS[slot].end.store(0, SeqCst);
            }
        }
    }

    /// Fails where the system lets nobody listen.
    pub fn watch(path: &Path, map: &[u8]) -> io::Result<Watch> {
        static LISTENING: LazyLock<Result<(), String>> = LazyLock::new(|| listen().map_err(|e| e.to_string()));
        LISTENING.as_ref().map_err(|reason| io::Error::other(format!("no handler for SIGBUS: {reason}")))?;
        let message = message(path);
        let start = map.as_ptr() as usize;
        // Taken by a value of `end` that no address is below, then filled, then valid.
        let free = |slot: &&Slot| slot.end.compare_exchange(0, 1, SeqCst, SeqCst).is_ok();
        let Some((i, slot)) = SLOTS.iter().enumerate().find(|(_, slot)| free(slot)) else { return Ok(Watch(None)) };
        slot.start.store(start, SeqCst);
        slot.message.store(message, SeqCst);
        slot.end.store(start + map.len(), SeqCst);
        Ok(Watch(Some(i)))
    }

    /// One for each path, for as long as the program runs.
    fn message(path: &Path) -> *mut String {
        static MESSAGES: LazyLock<Mutex<HashMap<PathBuf, usize>>> = LazyLock::new(Mutex::default);
        let mut messages = MESSAGES.lock().unwrap_or_else(|e| e.into_inner());
        let made = || {
            let text = format!(
                "error: `{}` has become shorter while it was read, or its disk failed; write it again, and leave it \
                 alone while it is in use\n",
                path.display()
            );
            Box::into_raw(Box::new(text)) as usize
        };
        *messages.entry(path.to_owned()).or_insert_with(made) as *mut String
    }

    fn listen() -> io::Result<()> {
        let handler = |info: &libc::siginfo_t| {
            // SAFETY: the kernel fills this field for SIGBUS.
            let address = unsafe { info.si_addr() } as usize;
            let hit = |slot: &&Slot| (slot.start.load(SeqCst)..slot.end.load(SeqCst)).contains(&address);
            let Some(slot) = SLOTS.iter().find(hit) else {
                // Another's fault: die of it as if nobody listened.
                let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGBUS);
                return;
            };
            // SAFETY: `watch` stored a box that is never freed, before the range that was hit.
            let text = unsafe { &*slot.message.load(SeqCst) };
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
            signal_hook::low_level::exit(1);
        };
        // SAFETY: the handler does what a signal handler may: it reads atomics and memory that is never freed, writes to a
        // file descriptor and ends the process.
        unsafe { signal_hook_registry::register_sigaction(signal_hook::consts::SIGBUS, handler) }.map(drop)
    }
}

/// Windows lets nobody shorten a file that is mapped, so there is nothing to watch for.
#[cfg(not(unix))]
mod lost {
    #[derive(Debug)]
    pub struct Watch;

    pub fn watch(_: &std::path::Path, _: &[u8]) -> std::io::Result<Watch> {
        Ok(Watch)
    }
}
