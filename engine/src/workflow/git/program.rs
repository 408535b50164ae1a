//! The `git` program: with whose settings it runs, and what it says.

use std::process::{Command, Output, Stdio};

use super::GitError;

/// `git`, without a terminal to ask at, and without what a repository that the caller stands in says.
fn git() -> Command {
    const OF_A_REPOSITORY: [&str; 13] = [
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_CONFIG_PARAMETERS",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_INDEX_FILE",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    ];
    let mut git = Command::new("git");
    for name in OF_A_REPOSITORY {
        git.env_remove(name);
    }
    git.stdin(Stdio::null()).current_dir("/");
    git.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_LFS_SKIP_SMUDGE", "1");
    git.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh");
    for setting in [
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "protocol.ext.allow=never",
        "submodule.recurse=false",
        "fetch.recurseSubmodules=false",
        "gc.auto=0",
        "maintenance.auto=false",
    ] {
        git.args(["-c", setting]);
    }
    git
}

/// `git` that speaks to a repository elsewhere, with the user's settings: they say how to sign in.
pub(super) fn outward() -> Command {
    let mut asked = git();
    let own_ssh = ["GIT_SSH", "GIT_SSH_COMMAND"].iter().any(|name| std::env::var_os(name).is_some())
        || asked
            .args(["config", "--get", "core.sshCommand"])
            .output()
            .is_ok_and(|asked| asked.status.success());
    let mut git = git();
    if !own_ssh {
        git.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    }
    // A connection that gives nothing for a minute is dead.
    git.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60"]);
    git
}

/// `git` that works on files here, without anybody's settings: no filters, and the same bytes for all.
pub(super) fn inward() -> Command {
    let mut git = git();
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.env("GIT_ATTR_NOSYSTEM", "1").env_remove("GIT_CONFIG_COUNT").env_remove("GIT_TEMPLATE_DIR");
    for setting in [
        "core.attributesFile=/dev/null",
        "core.autocrlf=false",
        "core.symlinks=true",
        "core.protectHFS=true",
        "core.protectNTFS=true",
        "advice.detachedHead=false",
    ] {
        git.args(["-c", setting]);
    }
    git
}

/// What a command printed; if it failed, what it says last.
pub(super) fn finished(git: &mut Command) -> Result<Result<String, String>, GitError> {
    let Output { status, stdout, stderr } = git.output().map_err(GitError::NoProgram)?;
    if status.success() {
        return Ok(Ok(String::from_utf8_lossy(&stdout).into_owned()));
    }
    Ok(Err(last_line(&String::from_utf8_lossy(&stderr)).unwrap_or_else(|| format!("it ended with {status}"))))
}

/// The last line that says something: what git always says at the end is left out where there is more.
fn last_line(said: &str) -> Option<String> {
    const ALWAYS: [&str; 3] = [
        "Please make sure you have the correct access rights",
        "and the repository exists.",
        "fatal: Could not read from remote repository.",
    ];
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = lines().rfind(|line| !ALWAYS.contains(line)).or_else(|| lines().next_back())?;
    Some(telling.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_always_says_hides_nothing() {
        let said = "fatal: '/x' does not appear to be a git repository\nfatal: Could not read from remote repository.\n\n\
                    Please make sure you have the correct access rights\nand the repository exists.\n";
        assert_eq!(last_line(said).unwrap(), "fatal: '/x' does not appear to be a git repository");
        assert_eq!(
            last_line("fatal: Could not read from remote repository.\n").unwrap(),
            "fatal: Could not read from remote repository."
        );
        assert_eq!(last_line("\n"), None);
    }
}
