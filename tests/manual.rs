//! What README and the manual show is what happens: every command of their `console` blocks is run, and prints what stands
//! below it, but for what is measured. Of the commands within their text, flags and scripts are there; other blocks are not
//! looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use blazr::metrics;

/// These are what runs this, and a comparison with programs that are not here.
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

/// A command of a shell that finds this blazr, at the root of the repository, with nothing set but what it needs.
fn shell(command: &str) -> Command {
    let shortened = SHORTER.iter().fold(format!("{command}\n"), |command, (long, short)| command.replace(long, short));
    let programs = Path::new(env!("CARGO_BIN_EXE_blazr")).parent().unwrap();
    let paths = std::env::var_os("PATH").unwrap();
    let paths = std::env::join_paths([programs.to_owned()].into_iter().chain(std::env::split_paths(&paths))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &shortened]).current_dir(root()).env_clear().env("PATH", paths);
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// Whether what a command prints is measured, or is of this machine.
fn is_measured(command: &str) -> bool {
    ["blazr bench", "blazr plan", "blazr serve\n"].iter().any(|measured| format!("{command}\n").starts_with(measured))
}

/// A line without its spaces, and without its numbers where they are measured.
fn essence(line: &str, is_measured: bool) -> String {
    let mut essence = String::new();
    let line = line.replace("bound on the control group", "available");
    for character in line.chars().filter(|character| !character.is_whitespace()) {
        match character {
            '0'..='9' | '.' if is_measured && essence.ends_with('#') => {}
            '0'..='9' if is_measured => essence.push('#'),
            other => essence.push(other),
        }
    }
    essence
}

/// What is printed on one stream, of which what is shown is taken from the front.
struct Printed {
    essence: String,
    is_measured: bool,
}

impl Printed {
    fn new(text: &str, is_measured: bool) -> Self {
        Self { essence: text.lines().map(|line| essence(line, is_measured)).collect(), is_measured }
    }

    fn has(&mut self, shown: &str) -> bool {
        let rest = self.essence.split_once(&essence(shown, self.is_measured)).map(|(_, rest)| rest.to_owned());
        rest.map(|rest| self.essence = rest).is_some()
    }
}

/// What is shown is printed in this order, on either stream; other text may stand between. Logs and figures, which are on
/// standard error, are measured.
fn check(example: &Example, out: &str, log: &str) {
    let mut streams = [Printed::new(out, is_measured(&example.command)), Printed::new(log, true)];
    for shown in &example.shown {
        let is_there = streams.iter_mut().any(|stream| stream.has(shown));
        assert!(is_there, "$ {}\nprints no such line: {shown}\nbut {out}\nand {log}", example.command);
    }
}

fn check_run(example: &Example) {
    let Output { status, stdout, stderr } = shell(&example.command).output().unwrap();
    let [out, log] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(status.success(), "$ {}\n{status}: {out}{log}", example.command);
    check(example, &out, &log);
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, and what is asked of it while it runs.
fn check_served(server: &Example, requests: &[Example]) {
    let mut process = Running(shell(&format!("exec {}", server.command)).spawn().unwrap());
    let last = essence(server.shown.last().unwrap(), true);
    let mut log = String::new();
    for line in BufReader::new(process.0.stderr.take().unwrap()).lines() {
        let line = line.unwrap() + "\n";
        log += &line;
        if essence(&line, true) == last {
            break;
        }
    }
    let port = log.split("http://127.0.0.1:").nth(1).unwrap_or_else(|| panic!("no address in {log}"));
    let port = port.split(',').next().unwrap();
    for request in requests {
        let command = request.command.replace("8080", port).replace("curl ", "curl --silent --fail --max-time 60 ");
        check_run(&Example { command, shown: request.shown.clone() });
    }
    check(server, "", &log);
}

#[test]
fn every_command_prints_what_is_shown() {
    let mut count = 0;
    for block in pages().iter().flat_map(|(_, page)| examples(page)) {
        match &block[..] {
            [server, requests @ ..] if server.command == "blazr serve" => check_served(server, requests),
            examples => {
                let is_run_here =
                    |example: &&Example| !RUN_ELSEWHERE.iter().any(|other| example.command.starts_with(other));
                examples.iter().filter(is_run_here).for_each(check_run);
            }
        }
        count += block.len();
    }
    assert!(count >= 10, "{count} commands were found");
}

/// The words between backticks.
fn code_in_text(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2))
}

#[test]
fn every_command_in_the_text_has_the_flags_that_it_is_given() {
    let pages = pages();
    let code = pages.iter().flat_map(|(_, page)| code_in_text(page));
    let commands: BTreeSet<&str> = code.filter(|words| words.starts_with("blazr ")).collect();
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
fn every_script_and_every_file_that_is_linked_is_there() {
    let (mut scripts, mut links) = (0, 0);
    for (path, page) in pages() {
        for command in code_in_text(&page) {
            let runs_a_script = |(program, _): &(&str, &str)| ["bash", "sh", "python", "python3"].contains(program);
            let Some((_, script)) = command.split_once(' ').filter(runs_a_script) else { continue };
            let script = root().join(script.split(' ').next().unwrap());
            assert!(script.is_file(), "{}: `{command}`: there is no {}", path.display(), script.display());
            scripts += 1;
        }
        for link in page.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            let is_elsewhere = link.is_empty() || link.contains("://");
            let target = path.with_file_name(link);
            assert!(is_elsewhere || target.exists(), "{}: there is no {}", path.display(), target.display());
            links += usize::from(!is_elsewhere);
        }
    }
    assert!(scripts >= 20 && links >= 20, "{scripts} scripts and {links} links were found");
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
