//! Which probes go into which files: objects that processes map are planned once each and attached once per scope.
//!
//! In: address spaces. Out: probes in place, and what to tell of them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use leaktrace_common::abi;
use leaktrace_common::cookie;
use memmap2::Mmap;

use super::attach::{Attachments, Probe, Scope};
use super::kernel::Kernel;
use crate::procmaps::{AddressSpace, Object, ObjectId};
use crate::targets::functions::Kind;
use crate::targets::plan::{self, Allocator, Plan, PlanOptions, Role};
use crate::targets::site::Emulation;

/// A planned file.
struct Planned {
    path: PathBuf,
    plan: Plan,
}

/// Plans and attaches.
pub struct Prober {
    attachments: Attachments,
    plans: HashMap<ObjectId, Option<Arc<Planned>>>,
    attached: HashSet<(ObjectId, Scope)>,
    /// By device and inode: a file that is named as well as mapped must not be probed twice.
    files: HashSet<(u64, u64, Scope)>,
    prefixes: Vec<String>,
    emulation: Emulation,
}

/// What one round of attaching found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// Files with probes that concern the process, whether set now or earlier.
    pub objects: Vec<PathBuf>,
    /// Allocators that are there but have no names to find them by.
    pub hidden: Vec<(PathBuf, Allocator)>,
}

impl Prober {
    /// `prefixes` are those of `--symbols-prefix`.
    pub fn new(prefixes: &[String], kernel_version: (u32, u32)) -> Self {
        Self {
            attachments: Attachments::default(),
            plans: HashMap::new(),
            attached: HashSet::new(),
            files: HashSet::new(),
            prefixes: prefixes.to_vec(),
            emulation: Emulation::for_kernel(kernel_version.0, kernel_version.1),
        }
    }

    /// Probes every allocator that is mapped in `space`.
    ///
    /// # Errors
    /// A probe that the kernel refuses.
    pub fn probe(&mut self, kernel: &mut Kernel, space: &AddressSpace, scope: Scope) -> Result<Found> {
        let mut objects: Vec<&Arc<Object>> = space.mappings().filter_map(|location| location.object).collect();
        objects.sort_by_key(|object| object.id());
        objects.dedup_by_key(|object| object.id());
        let mut found = Found::default();
        let planned: Vec<(&Arc<Object>, Arc<Planned>)> =
            objects.into_iter().filter_map(|object| Some((object, self.planned(object)?))).collect();
        for (_, planned) in &planned {
            if let Some(allocator) = planned.plan.hidden {
                found.hidden.push((planned.path.clone(), allocator));
            }
        }
        for ((object, planned), _) in plan::choose(planned.iter().map(|pair| (pair, &pair.1.plan))) {
            found.objects.push(planned.path.clone());
            if self.attached.insert((object.id(), scope)) {
                let file = object.open().with_context(|| format!("cannot open {}", planned.path.display()))?;
                self.attach(kernel, &file, planned, scope)?;
            }
        }
        Ok(found)
    }

    /// Probes a file that the user named.
    ///
    /// # Errors
    /// The file cannot be read, has no allocation functions, or the kernel refuses a probe.
    pub fn probe_file(&mut self, kernel: &mut Kernel, path: &Path, scope: Scope) -> Result<()> {
        let file = File::open(path)
            .with_context(|| format!("cannot open --object {}; name a program or library", path.display()))?;
        let plan = self.plan(&file).with_context(|| format!("cannot use --object {}", path.display()))?;
        if plan.probes.is_empty() {
            let (path, prefixes) = (path.display(), self.prefixes.join(", "));
            if prefixes.is_empty() {
                bail!("--object {path} has no allocation function that we know; name its prefix with --symbols-prefix");
            }
            bail!("--object {path} has no allocation function that we know, nor one with the prefix {prefixes}");
        }
        self.attach(kernel, &file, &Planned { path: path.to_path_buf(), plan }, scope)
    }

    fn planned(&mut self, object: &Object) -> Option<Arc<Planned>> {
        if let Some(known) = self.plans.get(&object.id()) {
            return known.clone();
        }
        let planned = self
            .plan_object(object)
            .inspect_err(|error| log::debug!("{} is not probed: {error:#}", object.path().display()))
            .ok()
            .map(Arc::new);
        self.plans.insert(object.id(), planned.clone());
        planned
    }

    fn plan_object(&self, object: &Object) -> Result<Planned> {
        Ok(Planned { path: object.path().to_path_buf(), plan: self.plan(&object.open()?)? })
    }

    fn plan(&self, file: &File) -> Result<Plan> {
        // SAFETY: the mapping is private and only read; a file that shrinks meanwhile would raise SIGBUS, which programs
        // and libraries in use do not do: they are replaced, not rewritten.
        let bytes = unsafe { Mmap::map(file) }?;
        let options = |prefix| PlanOptions { prefix, symbols: &[], emulation: self.emulation };
        let mut plan = plan::plan(&bytes, &options(None))?;
        for prefix in &self.prefixes {
            let more = plan::plan(&bytes, &options(Some(prefix)))?;
            for probe in more.probes {
                if plan.probes.iter().all(|known| known.offset != probe.offset) {
                    plan.probes.push(probe);
                }
            }
            if plan.role == Role::None {
                plan.role = more.role;
            }
        }
        Ok(plan)
    }

    fn attach(&mut self, kernel: &mut Kernel, file: &File, planned: &Planned, scope: Scope) -> Result<()> {
        let plan = &planned.plan;
        let inode = file.metadata().with_context(|| format!("cannot look at {}", planned.path.display()))?;
        if !self.files.insert((inode.dev(), inode.ino(), scope)) {
            return Ok(());
        }
        for probe in &plan.probes {
            let fallback = probe.fallback().map_or(String::new(), |why| format!(", single-stepped because {why}"));
            log::info!("{}: {} at +{}{fallback}", planned.path.display(), probe.names.join(" = "), probe.site.offset);
        }
        for skipped in &plan.skipped {
            log::debug!("{}: {} is not probed: {}", planned.path.display(), skipped.names.join(" = "), skipped.why);
        }
        let probes: Vec<Probe> = plan.probes.iter().filter_map(|probe| session_probe(plan, probe)).collect();
        self.attachments
            .attach(kernel, file.as_fd(), &probes, scope)
            .with_context(|| format!("cannot probe {}", planned.path.display()))
    }

    /// Whether nothing is probed at all.
    pub fn is_empty(&self) -> bool {
        self.attachments.is_empty()
    }

    /// Removes all probes.
    pub fn detach(self) {
        self.attachments.detach();
    }
}

fn session_probe(plan: &Plan, probe: &plan::Probe) -> Option<Probe> {
    let kind = match probe.kind {
        Kind::Malloc | Kind::Memalign => abi::FUNCTION_MALLOC,
        Kind::Calloc => abi::FUNCTION_CALLOC,
        Kind::Realloc => abi::FUNCTION_REALLOC,
        Kind::ReallocArray => abi::FUNCTION_REALLOCARRAY,
        Kind::PosixMemalign => abi::FUNCTION_POSIX_MEMALIGN,
        Kind::Free => abi::FUNCTION_FREE,
        Kind::Strdup | Kind::Xallocx => return None,
    };
    let standard = probe.cookie == 0 && matches!(probe.kind, Kind::Malloc | Kind::Free);
    let placement = if standard { None } else { Some(placement(probe)?) };
    Some(Probe {
        function: probe.names.first().cloned().unwrap_or_default(),
        kind,
        offset: probe.offset,
        placement,
        leaf: is_leaf(plan.role, probe.kind),
    })
}

/// The cookie that says where the arguments are, in the order in which the programs read them: those of the plan stand at
/// their places in the function's signature, the programs leave out what they do not need.
fn placement(probe: &plan::Probe) -> Option<u64> {
    let [first, second, third] = probe.site.arguments;
    let read = match probe.kind {
        // Alignment, size: the size alone.
        Kind::Memalign => [second, third, third],
        // Where to, alignment, size: all but the alignment.
        Kind::PosixMemalign => [first, third, third],
        _ => [first, second, third],
    };
    cookie::encode(read, probe.site.stack_shift)
}

/// Whether a function of this allocator calls no other that is probed. Where we cannot know it does.
fn is_leaf(role: Role, kind: Kind) -> bool {
    let allocator = match role {
        Role::Libc(allocator) | Role::Allocator(allocator) | Role::Program(allocator) => allocator,
        Role::CxxRuntime | Role::DynamicLinker | Role::None => return false,
    };
    match allocator {
        Allocator::Glibc | Allocator::Jemalloc | Allocator::Tcmalloc | Allocator::Mimalloc => {
            matches!(kind, Kind::Malloc | Kind::Calloc | Kind::Memalign | Kind::PosixMemalign)
        }
        // Its calloc and memalign call malloc.
        Allocator::Musl => kind == Kind::Malloc,
        Allocator::Tbb | Allocator::Rpmalloc | Allocator::Snmalloc | Allocator::Other => false,
    }
}
