//! The steps of a release, `deploy/release.sh`, in a copy of the files that they read.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A copy of the project's files that a release reads.
struct Project(tempfile::TempDir);

impl Project {
    fn new(changelog: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir(folder.path().join("deploy")).unwrap();
        for file in ["Cargo.toml", "deploy/release.sh", "deploy/install.sh"] {
            fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        fs::write(folder.path().join("CHANGELOG.md"), changelog).unwrap();
        Self(folder)
    }

    fn change_manifest(&self, change: impl Fn(&str) -> String) {
        let file = self.0.path().join("Cargo.toml");
        let manifest = fs::read_to_string(&file).unwrap();
        fs::write(&file, change(&manifest)).unwrap();
    }

    fn release(&self, args: &[&str]) -> Output {
        Command::new(self.0.path().join("deploy/release.sh")).args(args).output().unwrap()
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn changelog(heading: &str) -> String {
    format!(
        "# Changelog\n\n## 99.0.0 - unreleased\n\nlater\n\n{heading}\n\n### Added\n\n- a thing\n\n\
         ## 0.0.1 - 2020-01-01\n\nearlier\n"
    )
}

#[test]
fn the_release_notes_are_the_changelogs_section_of_the_version() {
    let project = Project::new(&changelog(&format!("## {VERSION} - 2026-12-01")));
    let output = project.release(&["notes"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "### Added\n\n- a thing\n");
}

#[test]
fn a_release_without_notes_fails() {
    let project = Project::new("# Changelog\n\n## 0.0.1 - 2020-01-01\n\nearlier\n");
    let output = project.release(&["notes"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{error}");
    assert!(error.contains(&format!("CHANGELOG.md says nothing about {VERSION}")), "{error}");
}

/// The next step of each error is in its text.
#[test]
fn a_release_needs_a_matching_tag_a_date_and_a_repository() {
    let tag = format!("v{VERSION}");
    let undated = format!("## {VERSION} - unreleased");
    let project = Project::new(&changelog(&undated));
    project.change_manifest(|manifest| {
        let lines = manifest.lines().filter(|line| !line.starts_with("repository = "));
        lines.map(|line| format!("{line}\n")).collect()
    });
    let fails = |tag: &str, reason: &str| {
        let output = project.release(&["check", tag]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(reason), "{reason}: {error}");
    };
    fails("v99.0.0", &format!("the tag must be {tag}"));
    fails(&tag, &format!("write \"## {VERSION} - YYYY-MM-DD\""));

    let dated = undated.replace("unreleased", "2026-12-01");
    fs::write(project.0.path().join("CHANGELOG.md"), changelog(&dated)).unwrap();
    fails(&tag, "set it to the address that offers the releases");

    project.change_manifest(|manifest| {
        manifest.replacen(
            "license =",
            "repository = \"https://git.example.org/pitwire\"\nlicense =",
            1,
        )
    });
    let output = project.release(&["check", &tag]);
    assert!(output.status.success(), "{output:?}");
}
