//! Debian's kernels: found in the archive's own lists, fetched by apt with the archive's signatures checked, unpacked, kept.
//!
//! In: a [`Series`]. Out: the path of a kernel image. apt works in its own directory below `target`, with Debian's suites
//! and Debian's keys, whatever this machine's own sources are, so that this machine's lists and packages do not change.
//!
//! Must never: take a package whose chain of signatures does not hold. apt refuses to, and nothing here tells it otherwise.

use crate::{shell, workspace};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's keys, which come with the package of the same name, on Ubuntu too.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A series of kernels, of which one is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// Its name on the command line.
    pub name: &'static str,
    /// Debian's suite that has it.
    suite: &'static str,
}

/// All that are tested.
pub const ALL: [Series; 3] =
    [Series { name: "6.1", suite: "bookworm" }, Series { name: "6.12", suite: "trixie" }, NEWEST];

/// Debian's newest.
pub const NEWEST: Series = Series { name: "newest", suite: "sid" };

/// Those that `cargo xtask ci` boots: the oldest that Debian supports, and the newest.
pub const IN_CI: [Series; 2] = [ALL[0], NEWEST];

/// A kernel to boot.
pub struct Kernel {
    pub series: Series,
    /// The package it came in, with its version.
    pub package: String,
    /// The image.
    pub image: PathBuf,
}

impl Series {
    /// The one of that name.
    pub fn named(name: &str) -> Result<Self, String> {
        ALL.into_iter()
            .find(|series| series.name == name)
            .ok_or_else(|| format!("not one of {}", ALL.map(|series| series.name).join(", ")))
    }

    /// Fetches the series' kernel, or takes the one fetched before if the archive cannot be reached.
    pub fn fetch(self) -> Result<Kernel> {
        let apt = Apt::new(self)?;
        match apt.fetch() {
            Ok(kernel) => Ok(kernel),
            Err(error) => match apt.kept()? {
                Some(kernel) => {
                    println!("   the kernel {} cannot be looked up ({error:#}): taking the one kept", self.name);
                    Ok(kernel)
                }
                None => Err(error.context(format!("fetching Debian's kernel {}", self.name))),
            },
        }
    }
}

/// Where Debian's archive is: as the environment says, or where this machine's own apt has it from.
pub fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("LEAKTRACE_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let uri = repository("Debian", "/debian")?;
    uri.context(
        "this machine's apt has no source of Debian's packages: name a mirror of Debian with LEAKTRACE_DEBIAN_MIRROR=URL",
    )
}

/// The mirror from which this machine's apt has the repository of this label, if it has it.
pub fn repository(label: &str, ending: &str) -> Result<Option<String>> {
    let mut targets = Command::new("apt-get");
    let sources = shell::output(targets.args(["indextargets", "--format", "$(LABEL)|$(REPO_URI)"]))?;
    let sources = || sources.lines().filter_map(|source| source.split_once('|'));
    // Lists that were never fetched have no label.
    let found = sources()
        .find(|(it, _)| *it == label)
        .or_else(|| sources().find(|(it, uri)| it.is_empty() && uri.trim_end_matches('/').ends_with(ending)));
    Ok(found.map(|(_, uri)| uri.to_owned()))
}

/// apt in a directory of its own.
struct Apt {
    series: Series,
    directory: PathBuf,
    settings: PathBuf,
}

impl Apt {
    fn new(series: Series) -> Result<Self> {
        let directory = workspace::target_dir().join("vm").join(series.suite);
        for part in ["lists/partial", "cache/archives/partial", "parts", "images"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("creating {}", part.display()))?;
        }
        let mirror = mirror()?;
        let sources = directory.join("sources.list");
        let line = format!("deb [arch=amd64 signed-by={KEYS}] {mirror} {} main\n", series.suite);
        shell::write_if_changed(&sources, line.as_bytes())?;
        shell::write_if_changed(&directory.join("status"), b"")?;
        let place = directory.display();
        let settings = directory.join("apt.conf");
        // This machine's hooks and sources are left out; its network settings (proxies) are used.
        let mut text = format!(
            "Dir::Etc::sourcelist \"{place}/sources.list\";\n\
             Dir::Etc::sourceparts \"{place}/parts\";\n\
             Dir::Etc::parts \"{place}/parts\";\n\
             Dir::Etc::main \"{place}/parts/none\";\n\
             Dir::Etc::preferencesparts \"{place}/parts\";\n\
             Dir::State::lists \"{place}/lists\";\n\
             Dir::State::status \"{place}/status\";\n\
             Dir::Cache \"{place}/cache\";\n\
             Dir::Cache::pkgcache \"\";\n\
             Dir::Cache::srcpkgcache \"\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"\";\n"
        );
        let here = shell::output(Command::new("apt-config").arg("dump"))?;
        let network = |line: &&str| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets");
        for line in here.lines().filter(network) {
            text += line;
            text.push('\n');
        }
        // Last, so that these options take precedence. A signed list that is old names a signed kernel that is old, which is
        // good enough here, and outdated mirrors are common where tests are run.
        text += "Acquire::Check-Valid-Until \"false\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::GzipIndexes \"true\";\n\
                 Acquire::Retries \"3\";\n\
                 Acquire::AllowInsecureRepositories \"false\";\n\
                 Acquire::AllowWeakRepositories \"false\";\n";
        shell::write_if_changed(&settings, text.as_bytes())?;
        Ok(Self { series, directory, settings })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.settings).env("LC_ALL", "C").current_dir(self.directory.join("images"));
        command
    }

    fn fetch(&self) -> Result<Kernel> {
        // By default `apt-get update` succeeds even if a mirror cannot be reached.
        shell::output(self.command("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]))?;
        let package = self.package()?;
        let shown = shell::output(self.command("apt-cache").args(["show", "--no-all-versions", &package]))?;
        let version = field(&shown, "Version").with_context(|| format!("the version of {package}"))?;
        let name = format!("{package}_{version}").replace(':', "%3a");
        let image = self.directory.join("images").join(&name);
        if !image.is_file() {
            println!("   fetching {package} {version} ({})", self.series.suite);
            shell::output(self.command("apt-get").args(["-qq", "download", &package]))?;
            self.unpack(&image)?;
        }
        Ok(Kernel { series: self.series, package: format!("{package} {version}"), image })
    }

    /// The package that has the image: a package without version names the newest one, and from 6.19 on the image is in a
    /// separate package.
    fn package(&self) -> Result<String> {
        const NEWEST: &str = "linux-image-cloud-amd64";
        let shown = shell::output(self.command("apt-cache").args(["show", "--no-all-versions", NEWEST]))?;
        let depends = field(&shown, "Depends").with_context(|| format!("what {NEWEST} depends on"))?;
        let image = depends
            .split(", ")
            .filter_map(|one| one.split(' ').next())
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{NEWEST} names no image: {depends}"))?;
        let binary = image.replacen("linux-image-", "linux-binary-", 1);
        let there = shell::output(self.command("apt-cache").args(["pkgnames", &binary]))?;
        Ok(if there.lines().any(|name| name == binary) { binary } else { image.to_owned() })
    }

    /// Takes the image out of the package just downloaded, and removes everything else.
    fn unpack(&self, image: &Path) -> Result<()> {
        let images = self.directory.join("images");
        let package = files(&images)?
            .into_iter()
            .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded no package")?;
        let unpacked = self.directory.join("unpacked");
        shell::output(Command::new("dpkg-deb").arg("-x").args([&package, &unpacked]))?;
        let is_image =
            |file: &PathBuf| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"));
        let mut found = files(&unpacked.join("boot")).unwrap_or_default();
        for version in files(&unpacked.join("usr/lib/modules")).unwrap_or_default() {
            found.extend(files(&version)?);
        }
        let Some(kernel) = found.iter().find(|file| is_image(file)) else {
            bail!("{} has no kernel image", package.display());
        };
        for old in files(&images)?.iter().filter(|file| **file != package) {
            fs::remove_file(old)?;
        }
        fs::rename(kernel, image).with_context(|| format!("keeping {}", kernel.display()))?;
        fs::remove_file(&package)?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("removing {}", unpacked.display()))
    }

    /// The kernel that an earlier run has fetched.
    fn kept(&self) -> Result<Option<Kernel>> {
        Ok(files(&self.directory.join("images"))?
            .into_iter()
            .find(|file| file.extension().is_none_or(|it| it != "deb"))
            .map(|image| {
                let package = image.file_name().unwrap_or_default().to_string_lossy().replacen('_', " ", 1);
                Kernel { series: self.series, package, image }
            }))
    }
}

/// A field of a package's description.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
