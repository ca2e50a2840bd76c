//! What README and the manual show is what happens: every command of theirs is run, and prints what stands below it, but
//! for its numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use blazr::metrics;

/// Other suites run these: see the README's table of them.
const RUN_ELSEWHERE: [&str; 2] = ["cargo test", "python3 tests/peers/compare.py"];

/// What makes a command shorter, and its output no other.
const SHORTER: [(&str, &str); 3] = [
    ("cargo run --release -- ", "blazr "),
    ("blazr bench", "blazr bench --threads 2 --runs 1 --prefill 8,16 --decode 2 --at 0,8"),
    ("blazr serve\n", "blazr serve --port 0\n"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let pages = pages.chain([root().join("README.md")]);
    pages.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// A command and what is shown of its output.
#[derive(Debug)]
struct Example {
    command: String,
    shown: Vec<String>,
}

/// The commands of a page, those of one block together.
fn examples(page: &str) -> Vec<Vec<Example>> {
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let example = |text: &str| {
        let text = text.replace("\\\n", "");
        let mut lines = text.lines();
        Example { command: lines.next().unwrap().to_owned(), shown: lines.map(str::to_owned).collect() }
    };
    blocks.map(|block| format!("\n{block}").split("\n$ ").skip(1).map(example).collect()).collect()
}

/// A command of a shell that finds this blazr, at the root of the repository.
fn shell(command: &str) -> Command {
    let shortened = SHORTER.iter().fold(format!("{command}\n"), |command, (long, short)| command.replace(long, short));
    let programs = Path::new(env!("CARGO_BIN_EXE_blazr")).parent().unwrap();
    let path = std::env::join_paths(
        [programs.to_owned()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1; {shortened}")]).current_dir(root()).env("PATH", path.unwrap());
    shell
}

/// A line without its numbers and its spaces, whoever tells how much memory there is.
fn essence(line: &str) -> String {
    let mut essence = String::new();
    let line = line.replace("bound on the control group", "available");
    for character in line.chars().filter(|character| !character.is_whitespace()) {
        match character {
            '0'..='9' | '.' if essence.ends_with('#') => {}
            '0'..='9' => essence.push('#'),
            other => essence.push(other),
        }
    }
    essence
}

/// Every line that is shown is there, in this order; other text may stand between them.
fn check(example: &Example, output: &str) {
    let printed: String = output.lines().map(essence).collect();
    let mut rest = &printed[..];
    for shown in &example.shown {
        let found = rest.split_once(&essence(shown));
        let (_, after) =
            found.unwrap_or_else(|| panic!("$ {}\nhas no such line: {shown}\nbut {output}", example.command));
        rest = after;
    }
}

fn check_run(example: &Example) {
    let Output { status, stdout, .. } = shell(&example.command).output().unwrap();
    let output = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "$ {}\n{status}: {output}", example.command);
    check(example, &output);
}

/// A server, and what is asked of it while it runs.
fn check_served(server: &Example, requests: &[Example]) {
    let mut process = shell(&format!("exec {}", server.command)).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let log: Vec<String> = lines.by_ref().take(server.shown.len()).collect();
    let port = log[0].split("http://127.0.0.1:").nth(1).unwrap().split(',').next().unwrap().to_owned();
    for request in requests {
        let command = request.command.replace("8080", &port).replace("curl ", "curl --silent --fail ");
        check_run(&Example { command, shown: request.shown.clone() });
    }
    process.kill().unwrap();
    process.wait().unwrap();
    check(server, &log.join("\n"));
}

#[test]
fn every_command_prints_what_is_shown() {
    let mut count = 0;
    for block in pages().iter().flat_map(|(_, page)| examples(page)) {
        match &block[..] {
            [server, requests @ ..] if server.command == "blazr serve" => check_served(server, requests),
            examples => {
                for example in examples {
                    if !RUN_ELSEWHERE.iter().any(|command| example.command.starts_with(command)) {
                        check_run(example);
                    }
                }
            }
        }
        count += block.len();
    }
    assert!(count >= 10, "{count} commands were found");
}

/// The words between backticks that begin with `blazr`.
fn commands_in_text(page: &str) -> impl Iterator<Item = &str> {
    let text = page.split("```").step_by(2);
    text.flat_map(|text| text.split('`').skip(1).step_by(2)).filter(|words| words.starts_with("blazr "))
}

#[test]
fn every_command_in_the_text_has_the_flags_that_it_is_given() {
    let pages = pages();
    let commands: BTreeSet<&str> = pages.iter().flat_map(|(_, page)| commands_in_text(page)).collect();
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        let mut words = command.split_whitespace().skip(1);
        let subcommand = words.next().unwrap();
        let help = Command::new(env!("CARGO_BIN_EXE_blazr")).args([subcommand, "--help"]).output().unwrap();
        assert!(help.status.success(), "{command}: there is no {subcommand}");
        let help = String::from_utf8(help.stdout).unwrap();
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(help.split_whitespace().any(|word| word == flag), "{command}: {subcommand} has no {flag}");
        }
    }
}

#[test]
fn every_metric_that_is_named_is_there() {
    let known: BTreeSet<&str> = metrics::ALL.iter().map(|metric| metric.name).collect();
    for (path, page) in pages() {
        let words = page.split(|character: char| !character.is_alphanumeric() && character != '_');
        for word in words.filter(|word| word.starts_with("blazr_")) {
            let of_histogram = ["_sum", "_count", "_bucket"].iter().find_map(|ending| word.strip_suffix(ending));
            let is_known = known.contains(word) || of_histogram.is_some_and(|name| known.contains(name));
            assert!(is_known, "{}: there is no metric {word}", path.display());
        }
    }
}
