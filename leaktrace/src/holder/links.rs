//! The links that hold probes, and leases on the files they are in.
//!
//! In: links as they are made. Out: their removal when asked for, or **before** somebody writes to their file.
//!
//! The kernel knows a probe by inode and offset, and puts its breakpoint into whatever is there when the file is mapped next. In
//! a program that was written over in place that is the middle of some instruction, which nobody analysed: the program would
//! crash. A read lease makes whoever opens the file for writing wait until it is given up; before that the probes are removed.
//! If the holder does not answer, the kernel goes on after `/proc/sys/fs/lease-break-time`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{mem, thread};

use nix::sys::signal::{SigSet, Signal};

use super::{Condition, Number};
use crate::host::bpf;
use crate::host::file_id::{self, FileId, Version};

/// All links, by the numbers that the other side knows them by.
#[derive(Default)]
pub struct Links {
    state: Mutex<State>,
    /// Held while links are removed for a writer.
    removing: Mutex<()>,
}

#[derive(Default)]
struct State {
    links: HashMap<Number, Link>,
    last: Number,
    leases: HashMap<FileId, Lease>,
    /// Whom to tell whose probes were removed for a writer.
    watchers: Vec<Sender<FileId>>,
}

struct Link {
    descriptor: OwnedFd,
    /// Its file, if there is a lease on it.
    leased: Option<FileId>,
}

struct Lease {
    file: File,
    /// Links in the file, those included that are being made.
    links: usize,
    /// Whether somebody waits for it to be given up.
    is_broken: bool,
}

/// The signal by which the kernel says that somebody waits for a lease to be given up. Blocked in all threads of the holder, it
/// stays pending though it is ignored, and is waited for.
pub fn notice() -> SigSet {
    SigSet::from(Signal::SIGIO)
}

impl Links {
    /// Makes a link in a file by `link`. The number stands for it from then on.
    pub fn add(
        &self,
        file: BorrowedFd<'_>,
        condition: &Condition,
        link: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<Number> {
        let leased = if condition.is_served { None } else { self.lease(file)? };
        // Under the lease, so that it stays so. Somebody may have written to it since it was analysed, and be done.
        let made = match self.is_as_analysed(file, leased, condition) {
            Ok(true) => link(),
            Ok(false) => Err(written_to()),
            Err(error) => Err(error),
        };
        let mut state = self.lock();
        let is_broken = leased.and_then(|inode| state.leases.get(&inode)).is_some_and(|lease| lease.is_broken);
        let is_alone = condition.beside.is_some_and(|other| !state.links.contains_key(&other));
        match made {
            Ok(descriptor) if !is_broken && !is_alone => {
                state.last += 1;
                let number = state.last;
                state.links.insert(number, Link { descriptor, leased });
                Ok(number)
            }
            made => {
                drop(state);
                // The probes go first.
                let refused = made.err().unwrap_or_else(written_to);
                if let Some(inode) = leased {
                    self.lock().give_up(inode, 1);
                }
                Err(refused)
            }
        }
    }

    /// Removes these.
    pub fn remove(&self, numbers: &[Number]) {
        let mut state = self.lock();
        let removed = numbers.iter().filter_map(|number| state.links.remove(number)).collect();
        drop(state);
        self.close(removed);
    }

    /// Removes all.
    pub fn remove_all(&self) {
        let all = mem::take(&mut self.lock().links);
        self.close(all.into_values().collect());
    }

    /// Removes all, and waits for what is being removed for a writer, before the process ends: the kernel would leave the
    /// breakpoints of a removal that its end interrupts. No more is removed for writers then.
    pub fn end(&self) {
        self.remove_all();
        mem::forget(self.removing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has a stream told of the files whose probes are removed for a writer: device and inode, a line each.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn watch(&self, mut stream: UnixStream) -> io::Result<()> {
        let (watcher, removed) = mpsc::channel::<FileId>();
        // Whoever does not read holds up this thread alone, and no writer.
        let tell = move || removed.into_iter().try_for_each(|(device, inode)| writeln!(stream, "{device} {inode}"));
        thread::Builder::new().spawn(tell)?;
        self.lock().watchers.push(watcher);
        Ok(())
    }

    /// Makes room for writers, for ever.
    pub fn heed_writers(&self) {
        loop {
            if notice().wait().is_err() {
                return;
            }
            let _removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let broken = self.lock().take_broken();
                let Some((inode, links)) = broken else { break };
                let count = links.len();
                close_each(links);
                let mut state = self.lock();
                state.watchers.retain(|watcher| watcher.send(inode).is_ok());
                state.give_up(inode, count);
            }
        }
    }

    /// Whether a file has the content that a link's places are for. Without a lease it need not stay so, and whoever may not
    /// answer is not asked.
    fn is_as_analysed(&self, file: BorrowedFd<'_>, leased: Option<FileId>, condition: &Condition) -> io::Result<bool> {
        if Version::of(&file)? != condition.version {
            return Ok(false);
        }
        // Its own descriptor can be read, while the other may only name the file.
        let readable = match leased.and_then(|inode| self.lock().leases.get(&inode).map(|lease| lease.file.try_clone()))
        {
            Some(file) => file?,
            None => return Ok(true),
        };
        for excerpt in &condition.excerpts {
            if !excerpt.is_in(&readable)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a lease on a file in which a link is going to be made, unless there is one; `None` where it cannot be had: some file
    /// systems have none, and other users' files take `CAP_LEASE`.
    ///
    /// # Errors
    /// `ETXTBSY`: somebody has opened the file for writing.
    fn lease(&self, file: BorrowedFd<'_>) -> io::Result<Option<FileId>> {
        let path = bpf::path_of(file.as_raw_fd());
        let Ok(path) = path.into_string() else { return Ok(None) };
        let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) else {
            return Ok(None);
        };
        let inode = file_id::of(&file.metadata()?);
        let mut state = self.lock();
        if let Some(lease) = state.leases.get_mut(&inode) {
            if lease.is_broken {
                return Err(written_to());
            }
            lease.links += 1;
            return Ok(Some(inode));
        }
        // The owner is the process: a thread that takes a lease may end before it is broken.
        let taken = fcntl(&file, libc::F_SETOWN, std::process::id() as libc::c_int)
            .and_then(|()| fcntl(&file, libc::F_SETLEASE, libc::F_RDLCK));
        match taken {
            Ok(()) => {}
            // Somebody has it open for writing.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(written_to()),
            Err(_) => return Ok(None),
        }
        state.leases.insert(inode, Lease { file, links: 1, is_broken: false });
        Ok(Some(inode))
    }

    fn close(&self, links: Vec<Link>) {
        let leased: Vec<FileId> = links.iter().filter_map(|link| link.leased).collect();
        close_each(links);
        let mut state = self.lock();
        for inode in leased {
            state.give_up(inode, 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next file for which somebody waits, and the links to be removed from it.
    fn take_broken(&mut self) -> Option<(FileId, Vec<Link>)> {
        let (inode, lease) = self.leases.iter_mut().find(|(_, lease)| !lease.is_broken && lease.is_awaited())?;
        lease.is_broken = true;
        let inode = *inode;
        let links = self.links.extract_if(|_, link| link.leased == Some(inode)).map(|(_, link)| link).collect();
        Some((inode, links))
    }

    /// So many links are gone from a file. With the last the lease is given up.
    fn give_up(&mut self, inode: FileId, links: usize) {
        let Some(lease) = self.leases.get_mut(&inode) else { return };
        lease.links = lease.links.saturating_sub(links);
        if lease.links == 0 {
            // Closing it would do, if no process had a copy that was being forked.
            let _ = fcntl(&lease.file, libc::F_SETLEASE, libc::F_UNLCK);
            self.leases.remove(&inode);
        }
    }
}

impl Lease {
    /// Whether somebody waits for it: then the kernel says what it is to become.
    fn is_awaited(&self) -> bool {
        // SAFETY: the command takes nothing.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) == libc::F_UNLCK }
    }
}

fn written_to() -> io::Error {
    io::Error::from_raw_os_error(libc::ETXTBSY)
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: these commands take a number.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes each by itself: the kernel waits for a grace period at each.
fn close_each(links: Vec<Link>) {
    thread::scope(|scope| {
        for Link { descriptor, .. } in links {
            // Where no thread can be made, this one closes it.
            let _ = thread::Builder::new().spawn_scoped(scope, move || drop(descriptor));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::host::file_id::Excerpt;

    /// What a link is to be made in, and its present content.
    fn file() -> (File, Condition) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"analysed").unwrap();
        let excerpts = vec![Excerpt { start: 2, bytes: b"al".to_vec() }];
        let condition = Condition { version: Version::of(&file).unwrap(), excerpts, is_served: false, beside: None };
        // Whoever has it open for writing keeps leases away.
        let read_only = File::open(bpf::path_of(file.as_raw_fd()).to_str().unwrap()).unwrap();
        (read_only, condition)
    }

    fn add(links: &Links, file: &File, condition: &Condition) -> io::Result<Number> {
        links.add(file.as_fd(), condition, || file.try_clone().map(OwnedFd::from))
    }

    /// The first takes the lease, which cannot be had while a child that another test starts has a copy of the writer's descriptor.
    fn add_first(links: &Links, file: &File, condition: &Condition) -> Number {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match add(links, file, condition) {
                Ok(number) => return number,
                refused => assert!(is_refused(&refused) && Instant::now() < until, "{refused:?}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_refused(added: &io::Result<Number>) -> bool {
        added.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ETXTBSY))
    }

    #[test]
    fn a_file_that_was_written_to_since_it_was_analysed_gets_no_link() {
        let links = Links::default();
        let (file, condition) = file();
        let number = add_first(&links, &file, &condition);
        links.remove(&[number]);
        // Longer than a tick of files' times.
        thread::sleep(Duration::from_millis(20));
        let mut writer = OpenOptions::new().write(true).open(bpf::path_of(file.as_raw_fd()).to_str().unwrap()).unwrap();
        writer.write_all(b"replaced").unwrap();
        drop(writer);
        let unmade = || unreachable!("the file has changed");
        assert!(is_refused(&links.add(file.as_fd(), &condition, unmade)));
        assert!(links.lock().leases.is_empty() && links.lock().links.is_empty());
    }

    #[test]
    fn another_content_that_looks_like_the_same_version_gets_no_link() {
        let links = Links::default();
        let (file, condition) = file();
        links.remove(&[add_first(&links, &file, &condition)]);
        for excerpt in [(2, "la"), (6, "ed!")] {
            let excerpts = vec![Excerpt { start: excerpt.0, bytes: excerpt.1.as_bytes().to_vec() }];
            let unmade = || unreachable!("the file has other bytes");
            assert!(is_refused(&links.add(file.as_fd(), &Condition { excerpts, ..condition.clone() }, unmade)));
        }
        assert!(links.lock().leases.is_empty() && links.lock().links.is_empty());
    }

    #[test]
    fn a_file_whose_server_may_not_answer_is_neither_opened_nor_read() {
        let links = Links::default();
        let (file, condition) = file();
        let excerpts = vec![Excerpt { start: 0, bytes: b"never read".to_vec() }];
        add(&links, &file, &Condition { excerpts, is_served: true, ..condition }).unwrap();
        assert!(links.lock().leases.is_empty());
    }

    #[test]
    fn a_link_is_made_beside_others_only_while_they_are_there() {
        let links = Links::default();
        let (file, condition) = file();
        let first = add_first(&links, &file, &condition);
        let beside = Condition { beside: Some(first), ..condition.clone() };
        let second = add(&links, &file, &beside).unwrap();
        links.remove(&[first]);
        assert!(is_refused(&add(&links, &file, &beside)));
        links.remove(&[second]);
        assert!(links.lock().leases.is_empty() && links.lock().links.is_empty());
    }

    #[test]
    fn a_watcher_that_does_not_read_misses_nothing() {
        const FILES: u64 = 10_000;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let links = Links::default();
        links.watch(theirs).unwrap();
        for inode in 1..=FILES {
            links.lock().watchers[0].send((7, inode)).unwrap();
        }
        drop(links);
        let told: Vec<_> = BufReader::new(ours).lines().map(Result::unwrap).collect();
        assert_eq!(told, (1..=FILES).map(|inode| format!("7 {inode}")).collect::<Vec<_>>());
    }
}
