//! Packages of Debian and its derivatives: dpkg says which package a file belongs to, apt which packages have debug
//! information, each with the build ids that it covers.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::tool::Tools;
use super::{Advice, Wanting};

/// A version of a package with debug information, as apt knows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct DebugPackage {
    name: String,
    version: String,
    /// Of the files that it is for; empty where it does not say.
    build_ids: BTreeSet<String>,
}

/// An answer for each file.
pub(super) fn advise(files: &[Wanting], tools: &Tools) -> Vec<Advice> {
    let nothing = || vec![Advice::Nothing; files.len()];
    let patterns: Vec<OsString> =
        files.iter().flat_map(|file| names(&file.path)).map(PathBuf::into_os_string).collect();
    if patterns.is_empty() {
        return nothing();
    }
    let search = [vec![OsString::from("-S")], patterns].concat();
    let Some(owners) = tools.output("dpkg-query", &search).map(|output| owners(&output)) else { return nothing() };
    let owner = |file: &Wanting| names(&file.path).into_iter().find_map(|name| owners.get(&name)).cloned();
    let packages: BTreeSet<String> = files.iter().filter_map(owner).collect();
    if packages.is_empty() {
        return nothing();
    }
    let format = "-f=${Package} ${source:Package}\\n".to_owned();
    let show: Vec<String> = ["-W".to_owned(), format].into_iter().chain(packages).collect();
    let sources = tools.output("dpkg-query", &show).map(|output| sources(&output)).unwrap_or_default();
    let source = |package: &str| sources.get(package).cloned().unwrap_or_else(|| package.to_owned());
    let wanted: BTreeSet<String> =
        files.iter().filter_map(owner).flat_map(|package| candidates(&package, &source(&package))).collect();
    let show: Vec<String> = std::iter::once("show".to_owned()).chain(wanted).collect();
    let known = tools.output("apt-cache", &show).map(|output| debug_packages(&output));
    let choose = |file, package: String| match &known {
        Some(known) => choose(&package, &source(&package), file, known),
        None => Advice::OfPackage(package),
    };
    files.iter().map(|file| owner(file).map_or(Advice::Nothing, |package| choose(file, package))).collect()
}

/// The paths under which dpkg may know a file: many packages still ship to `/lib` what is installed in `/usr/lib`. dpkg
/// takes patterns, so a path that could be read as a pattern is left out.
fn names(path: &Path) -> Vec<PathBuf> {
    let is_plain = path.is_absolute() && path.to_str().is_some_and(|path| !path.contains(['*', '?', '[', '\\']));
    let merged = path.strip_prefix("/usr").ok().map(|rest| Path::new("/").join(rest));
    let names = std::iter::once(path.to_path_buf()).chain(merged);
    if is_plain { names.collect() } else { Vec::new() }
}

/// The lines of `dpkg-query -S`: `PACKAGE[:ARCHITECTURE][, PACKAGE...]: PATH`.
fn owners(output: &str) -> BTreeMap<PathBuf, String> {
    let lines = output.lines().filter(|line| !line.starts_with("diversion by "));
    lines
        .filter_map(|line| {
            let (packages, path) = line.split_once(": ")?;
            let package = packages.split([',', ':']).next().filter(|package| !package.is_empty())?;
            Some((PathBuf::from(path), package.to_owned()))
        })
        .collect()
}

/// Packages with their source packages, one pair a line.
fn sources(output: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once(' ').map(|(package, source)| (package.to_owned(), source.to_owned()));
    output.lines().filter_map(pair).collect()
}

/// What a package with debug information is called: after the package, or, where it was made by hand, after the source.
fn candidates(package: &str, source: &str) -> Vec<String> {
    [format!("{package}-dbgsym"), format!("{package}-dbg"), format!("{source}-dbgsym"), format!("{source}-dbg")].into()
}

/// The paragraphs of `apt-cache show`, the version that would be installed first.
fn debug_packages(output: &str) -> Vec<DebugPackage> {
    let paragraphs = output.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    let package = |paragraph: &str| {
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned());
            paragraph.lines().find_map(value)
        };
        let build_ids = field("Build-Ids").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        Some(DebugPackage { name: field("Package")?, version: field("Version")?, build_ids })
    };
    paragraphs.filter_map(package).collect()
}

/// What to do for a file of this package.
fn choose(package: &str, source: &str, file: &Wanting, known: &[DebugPackage]) -> Advice {
    let candidates = candidates(package, source);
    let known: Vec<&DebugPackage> = known.iter().filter(|debug| candidates.contains(&debug.name)).collect();
    let has_it = |debug: &&&DebugPackage| file.build_id.as_ref().is_some_and(|id| debug.build_ids.contains(id));
    if let Some(debug) = known.iter().find(has_it) {
        let newest = known.iter().find(|other| other.name == debug.name);
        // Which of several versions is the one has to be said.
        return Advice::Install(if newest.is_some_and(|newest| newest.version == debug.version) {
            format!("apt install {}", debug.name)
        } else {
            format!("apt install {}={}", debug.name, debug.version)
        });
    }
    // It does not say for which files it is; its name does.
    let of_its_own =
        |debug: &&&DebugPackage| debug.build_ids.is_empty() && debug.name.starts_with(&format!("{package}-dbg"));
    match known.iter().find(of_its_own) {
        Some(debug) => Advice::Install(format!("apt install {}", debug.name)),
        None => Advice::Elsewhere(package.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `apt-cache show` prints, cut to the fields that matter.
    const SHOWN: &str = "\
Package: libc6-dbg
Source: glibc
Version: 2.36-9+deb12u14
Depends: libc6 (= 2.36-9+deb12u14)
Build-Ids: 0032733b6513f9afeb0e3f78e638ea24dc374a4d 93ed8b1bf0e7b1d8f1d3e8c9ef1f9b4a2c3d4e5f
Description: GNU C Library: detached debugging symbols
 Package: not this one

Package: libc6-dbg
Version: 2.36-9+deb12u7
Build-Ids: 0022ee53c7b330fc0e16e23aedce1e6bd2ca52dd

Package: old-dbg
Version: 1

";

    fn file(path: &str, id: &str) -> Wanting {
        Wanting { path: PathBuf::from(path), build_id: Some(id.to_owned()) }
    }

    fn chosen(package: &str, source: &str, id: &str) -> Advice {
        choose(package, source, &file("/x", id), &debug_packages(SHOWN))
    }

    #[test]
    fn owners_of_files_are_read_as_dpkg_prints_them() {
        let output = "\
diversion by dash from: /bin/sh
libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6
redis-server: /usr/bin/redis-server
one, two:amd64: /usr/share/both: of them
";
        let found = owners(output);
        let of = |path: &str| found.get(Path::new(path)).map(String::as_str);
        assert_eq!(found.len(), 3);
        assert_eq!(of("/lib/x86_64-linux-gnu/libc.so.6"), Some("libc6"));
        assert_eq!(of("/usr/bin/redis-server"), Some("redis-server"));
        assert_eq!(of("/usr/share/both: of them"), Some("one"));
    }

    #[test]
    fn a_file_is_looked_for_where_packages_may_ship_it_and_never_as_a_pattern() {
        assert_eq!(names(Path::new("/usr/lib/a.so")), [Path::new("/usr/lib/a.so"), Path::new("/lib/a.so")]);
        assert_eq!(names(Path::new("/opt/a")), [Path::new("/opt/a")]);
        for pattern in ["/opt/*", "/a?", "/a[b]", "relative", "[vdso]"] {
            assert_eq!(names(Path::new(pattern)).len(), 0, "{pattern}");
        }
    }

    #[test]
    fn source_packages_are_read() {
        let found = sources("libc6 glibc\nredis-server redis\n");
        assert_eq!(found.get("redis-server").map(String::as_str), Some("redis"));
    }

    #[test]
    fn paragraphs_of_apt_become_packages() {
        let packages = debug_packages(SHOWN);
        let short: Vec<_> =
            packages.iter().map(|it| (it.name.as_str(), it.version.as_str(), it.build_ids.len())).collect();
        assert_eq!(
            short,
            [("libc6-dbg", "2.36-9+deb12u14", 2), ("libc6-dbg", "2.36-9+deb12u7", 1), ("old-dbg", "1", 0)]
        );
        assert_eq!(debug_packages("\n\nN: Unable to locate package x\n"), []);
    }

    #[test]
    fn the_package_with_the_build_id_is_chosen_in_its_version() {
        let install = |what: &str| Advice::Install(format!("apt install {what}"));
        assert_eq!(chosen("libc6", "glibc", "93ed8b1bf0e7b1d8f1d3e8c9ef1f9b4a2c3d4e5f"), install("libc6-dbg"));
        let older = chosen("libc6", "glibc", "0022ee53c7b330fc0e16e23aedce1e6bd2ca52dd");
        assert_eq!(older, install("libc6-dbg=2.36-9+deb12u7"));
        // Made by hand for several packages of one source.
        assert_eq!(chosen("libc-bin", "libc6", "0032733b6513f9afeb0e3f78e638ea24dc374a4d"), install("libc6-dbg"));
        assert_eq!(chosen("old", "older", "ab"), install("old-dbg"), "it does not say for which files it is");
    }

    #[test]
    fn a_package_of_another_build_is_not_recommended() {
        assert_eq!(chosen("libc6", "glibc", "ff"), Advice::Elsewhere("libc6".to_owned()));
        assert_eq!(chosen("new", "old", "ff"), Advice::Elsewhere("new".to_owned()), "another package's");
        assert_eq!(choose("x", "x", &file("/x", "ff"), &[]), Advice::Elsewhere("x".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn no_output_makes_it_panic(output: String) {
            let _ = (owners(&output), sources(&output), debug_packages(&output));
        }
    }
}
