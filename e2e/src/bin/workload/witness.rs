//! A process that has one of everything that a container's processes have, uses all of it ten times a second, and
//! writes down what does not work. Something is always under way: said by one end and not yet heard by the other.

use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{FlockOperation, flock, inotify};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// What is used, and how: it is told the number of the turn.
type Works = Box<dyn FnMut(u64) -> Result<()>>;
type Use = (&'static str, Works);

/// Works for ever in `folder`; `folder/seen` is a line with the number of the turn and everything that failed.
pub fn work(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut all = all(folder)?;
    let mut broken: Vec<String> = Vec::new();
    for turn in 1.. {
        for (name, works) in &mut all {
            if let Err(e) = works(turn) {
                broken.push(format!("{name}: {e}"));
            }
        }
        broken.truncate(20);
        let draft = folder.join("draft");
        std::fs::write(&draft, format!("{turn} {}\n", broken.join("; ")))?;
        std::fs::rename(draft, folder.join("seen"))?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn all(folder: &Path) -> Result<Vec<Use>> {
    let (near, far) = UnixStream::pair()?;
    let (out, into) = rustix::pipe::pipe()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok(vec![
        ("unix socket", stream(near, far)?),
        ("pipe", stream(File::from(into), File::from(out))?),
        ("tcp over lo", stream(client, server)?),
        ("pty", pty()?),
        ("named unix socket", named(folder)?),
        ("threads", threads()),
        ("timerfd", timer()?),
        ("eventfd by epoll", event()?),
        ("inotify", watched(folder)?),
        ("lock", locked(folder)?),
        (
            "shared memory",
            file(
                File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open("/dev/shm/witness")?,
            ),
        ),
        ("deleted file", deleted(folder)?),
        (
            "memfd",
            file(rustix::fs::memfd_create("witness", rustix::fs::MemfdFlags::CLOEXEC)?.into()),
        ),
    ])
}

fn same(seen: u64, wanted: u64) -> Result<()> {
    match seen == wanted {
        true => Ok(()),
        false => Err(format!("{seen} is not {wanted}").into()),
    }
}

/// One end says numbers, the other hears each a turn later.
fn stream<W: Write + 'static, R: Read + 'static>(mut near: W, mut far: R) -> Result<Works> {
    near.write_all(&0_u64.to_le_bytes())?;
    Ok(Box::new(move |turn| {
        near.write_all(&turn.to_le_bytes())?;
        let mut number = [0; 8];
        far.read_exact(&mut number)?;
        same(u64::from_le_bytes(number), turn - 1)
    }))
}

/// What is typed on one side is read as a line on the other.
fn pty() -> Result<Works> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let path = ptsname(&near, Vec::new())?.into_string()?;
    let mut far = File::options().read(true).write(true).open(path)?;
    let mut near = File::from(near);
    Ok(Box::new(move |turn| {
        near.write_all(format!("{turn}\n").as_bytes())?;
        let mut line = [0; 64];
        let length = far.read(&mut line)?;
        let text = String::from_utf8_lossy(line.get(..length).unwrap_or_default());
        // Its echo.
        let _ = near.read(&mut [0; 64])?;
        same(text.trim().parse()?, turn)
    }))
}

/// A listener in the file system takes another connection each turn.
fn named(folder: &Path) -> Result<Works> {
    let path = folder.join("socket");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    Ok(Box::new(move |turn| {
        let mut client = UnixStream::connect(&path)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(&turn.to_le_bytes())?;
        let mut number = [0; 8];
        server.read_exact(&mut number)?;
        same(u64::from_le_bytes(number), turn)
    }))
}

/// Threads that pass a number round.
fn threads() -> Works {
    const COUNT: u64 = 8;
    let shared = Arc::new((Mutex::new(0_u64), Condvar::new()));
    for own in 1..=COUNT {
        let shared = shared.clone();
        thread::spawn(move || {
            let (number, changed) = &*shared;
            let mut number = number.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if *number % (COUNT + 1) == own {
                    *number += 1;
                    changed.notify_all();
                }
                number = changed.wait(number).unwrap_or_else(PoisonError::into_inner);
            }
        });
    }
    Box::new(move |turn| {
        let (number, changed) = &*shared;
        let mut number = number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        changed.notify_all();
        let wait = Duration::from_secs(5);
        let round = |n: &mut u64| !n.is_multiple_of(COUNT + 1);
        let waited = changed.wait_timeout_while(number, wait, round);
        let (number, _) = waited.map_err(|_| "a thread ended")?;
        same(*number, turn * (COUNT + 1))
    })
}

/// A timer that runs out more than once a turn.
fn timer() -> Result<Works> {
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let every = Timespec {
        tv_sec: 0,
        tv_nsec: 30_000_000,
    };
    let set = Itimerspec {
        it_interval: every,
        it_value: every,
    };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &set)?;
    let mut timer = File::from(timer);
    Ok(Box::new(move |_| {
        let mut number = [0; 8];
        timer.read_exact(&mut number)?;
        match u64::from_le_bytes(number) {
            0 => Err("it does not run".into()),
            _ => Ok(()),
        }
    }))
}

fn event() -> Result<Works> {
    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &poll,
        &event,
        epoll::EventData::new_u64(7),
        epoll::EventFlags::IN,
    )?;
    let mut event = File::from(event);
    Ok(Box::new(move |turn| {
        event.write_all(&turn.to_ne_bytes())?;
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        let limit = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let count = epoll::wait(&poll, &mut ready, Some(&limit))?;
        same(count as u64, 1)?;
        let mut number = [0; 8];
        event.read_exact(&mut number)?;
        same(u64::from_ne_bytes(number), turn)
    }))
}

/// A file that is made is told of.
fn watched(folder: &Path) -> Result<Works> {
    let folder = folder.join("watched");
    std::fs::create_dir_all(&folder)?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, &folder, inotify::WatchFlags::CREATE)?;
    let mut watch = File::from(watch);
    Ok(Box::new(move |_| {
        let file = folder.join("new");
        std::fs::write(&file, "")?;
        std::fs::remove_file(&file)?;
        let length = watch.read(&mut [0; 512])?;
        match length {
            0 => Err("nothing was told".into()),
            _ => Ok(()),
        }
    }))
}

/// A lock keeps others out.
fn locked(folder: &Path) -> Result<Works> {
    let path = folder.join("lock");
    let held: OwnedFd = File::create(&path)?.into();
    flock(&held, FlockOperation::LockExclusive)?;
    Ok(Box::new(move |_| {
        let _ = &held;
        match flock(File::open(&path)?, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
            other => Err(format!("it is not held: {other:?}").into()),
        }
    }))
}

/// What was written the turn before is there.
fn file(file: File) -> Works {
    let mut before = None;
    Box::new(move |turn| {
        let mut number = [0; 8];
        if let Some(before) = before.replace(turn) {
            file.read_exact_at(&mut number, 0)?;
            same(u64::from_le_bytes(number), before)?;
        }
        Ok(file.write_all_at(&turn.to_le_bytes(), 0)?)
    })
}

fn deleted(folder: &Path) -> Result<Works> {
    let path = folder.join("deleted");
    let open = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file(open))
}
