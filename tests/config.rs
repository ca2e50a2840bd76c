//! Settings: flags, variables and the configuration file, and what README and `config/` say of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `blazr serve --print-config` in this directory, without the variables that are set here.
fn serve_in(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blazr"));
    command.args(["serve", "--print-config"]).current_dir(directory);
    let own = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("BLAZR_"));
    own.for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// The same with more flags and variables, in a directory that has no file of its own.
fn print_config(flags: &[&str], variables: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    serve_in(directory.path()).args(flags).envs(variables.iter().copied()).output().unwrap()
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The settings with their values, none where they are not set.
fn settings(printed: &str) -> BTreeMap<String, Option<String>> {
    let setting = |line: &str| match line.strip_prefix("# ") {
        Some(unset) => (unset.split(' ').next().unwrap().to_owned(), None),
        None => {
            let (key, value) = line.split_once(" = ").unwrap();
            (key.to_owned(), Some(value.rsplit_once(" # ").unwrap().0.to_owned()))
        }
    };
    printed.lines().map(setting).collect()
}

/// The file that lists every setting, with all of them set.
fn all_set() -> String {
    let file = std::fs::read_to_string(root().join("config/blazr.toml")).unwrap();
    let is_setting = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let lines = file.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_setting);
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_file_lists_every_setting_with_its_default() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.toml");
    std::fs::write(&path, all_set()).unwrap();
    let (defaults, listed) = (print_config(&[], &[]), print_config(&["--config", path.to_str().unwrap()], &[]));
    let (defaults, listed) = (settings(&text(defaults)), text(listed));
    assert!(!listed.contains("# default"), "a setting is missing in config/blazr.toml:\n{listed}");
    assert!(!listed.contains("is not set"), "a setting is missing in config/blazr.toml:\n{listed}");
    let listed = settings(&listed);
    for (key, default) in defaults.iter().filter(|(_, default)| default.is_some()) {
        assert_eq!(listed.get(key), Some(default), "{key} in config/blazr.toml");
    }
}

/// What holds with each of the files in `config/`.
fn of_examples() -> Vec<BTreeMap<String, Option<String>>> {
    let directory = std::fs::read_dir(root().join("config")).unwrap();
    let files: Vec<PathBuf> = directory.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5, "{files:?}");
    files.iter().map(|file| settings(&text(print_config(&["--config", file.to_str().unwrap()], &[])))).collect()
}

#[test]
fn the_example_files_are_understood() {
    assert!(of_examples().iter().all(|settings| settings.contains_key("port")));
}

/// After a drain, clients that are cut off are told within 2 s (`LAST_WORDS` in `src/api/serve.rs`), and a collector of
/// traces that hangs is waited for 5 s (`SpanProcessor::shutdown` in opentelemetry_sdk).
const AFTER_DRAIN_SECONDS: f64 = 7.0;

#[test]
fn supervisors_wait_for_the_longest_drain() {
    let seconds = |text: &str| text.trim_end_matches('s').parse::<f64>().unwrap();
    let drains = of_examples().into_iter().map(|settings| seconds(settings["drain_timeout"].as_ref().unwrap()));
    let end = drains.fold(0.0, f64::max) + AFTER_DRAIN_SECONDS;
    for (file, key) in
        [("docker/systemd/blazr.service", "TimeoutStopSec="), ("docker/compose.yaml", "stop_grace_period: ")]
    {
        let supervisor = std::fs::read_to_string(root().join(file)).unwrap();
        let patience = supervisor.lines().find_map(|line| line.trim().strip_prefix(key));
        let patience = seconds(patience.unwrap_or_else(|| panic!("{file} has no {key}")));
        assert!(patience > end, "{file} waits for {patience} s, and a drain takes up to {end} s");
    }
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blazr.toml");
    std::fs::write(&path, "port = 1\nmax_queue = 2\nthreads = 3\nalias = [\"a\"]\n").unwrap();
    let file = path.to_str().unwrap();
    let flags = ["--port", "7"];
    let variables =
        [("BLAZR_CONFIG", file), ("BLAZR_PORT", "8"), ("BLAZR_MAX_QUEUE", "9"), ("BLAZR_LOG_PROMPTS", "yes")];
    let printed = text(print_config(&flags, &variables));
    for line in [
        "port = 7 # --port",
        "max_queue = 9 # BLAZR_MAX_QUEUE",
        &format!("threads = 3 # {file}:3"),
        &format!("alias = [\"a\"] # {file}:4"),
        "log_prompts = true # BLAZR_LOG_PROMPTS",
        "host = \"127.0.0.1\" # default",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in\n{printed}");
    }
}

#[test]
fn what_is_printed_says_the_same_when_it_is_read() {
    let printed = text(print_config(
        &["--alias", "a,007", "--host", "a\u{7f}b", "--port", "7", "--queue-timeout", "0.5", "--cpu"],
        &[],
    ));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blazr.toml");
    std::fs::write(&path, &printed).unwrap();
    let again = text(print_config(&["--config", path.to_str().unwrap()], &[]));
    assert_eq!(settings(&again), settings(&printed));
}

#[test]
fn a_file_in_the_working_directory_is_read() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("config")).unwrap();
    std::fs::write(directory.path().join("config/blazr.toml"), "port = 9\n").unwrap();
    assert!(text(serve_in(directory.path()).output().unwrap()).contains("port = 9 # config/blazr.toml:1\n"));
}

#[test]
fn mistakes_are_named_and_end_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blazr.toml");
    std::fs::write(&path, "port = 1\nmax_queu = 2\n").unwrap();
    let file = path.to_str().unwrap();
    for (flags, variables, code, told) in [
        (vec!["--config", file], vec![], 2, format!("error: {file}:2: max_queu: there is no such setting; ")),
        (vec!["--config", "/nowhere.toml"], vec![], 1, "error: /nowhere.toml: No such file".to_owned()),
        (vec![], vec![("BLAZR_API_KEYS", "x")], 2, "error: BLAZR_API_KEYS: expected BLAZR_ and the name".to_owned()),
        (vec![], vec![("BLAZR_PORT", "x")], 2, "--port has the value of BLAZR_PORT.".to_owned()),
    ] {
        let output = print_config(&flags, &variables);
        let found = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && found.contains(&told), "{told}: {found}");
    }
}

#[test]
fn the_secret_is_not_printed() {
    let output = print_config(&["--api-key", "hidden"], &[("BLAZR_API_KEY", "hidden")]);
    let printed = text(output);
    assert!(printed.contains("# api_key is set by --api-key and not shown\n") && !printed.contains("hidden"));
}

#[test]
fn the_readme_has_every_setting_with_its_default() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let section = readme.split("## Commands").nth(1).unwrap().split("## Operation").next().unwrap();
    for row in section.lines().filter(|line| line.starts_with("| `--")) {
        let row = row.replace("\\|", " or ");
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let flags = cells[1].split('`').skip(1).step_by(2).map(|code| code.split(' ').next().unwrap());
        let defaults = cells[2].split(", ").chain(std::iter::repeat(""));
        for (flag, default) in flags.zip(defaults) {
            let word = default.trim_start_matches('`').split(['`', ' ']).next().unwrap();
            told.insert(flag.trim_start_matches("--").replace('-', "_"), word.to_owned());
        }
    }
    for (key, default) in settings(&text(print_config(&[], &[]))) {
        let told = told.get(&key).unwrap_or_else(|| panic!("no table of README has {key}"));
        let Some(default) = default else { continue };
        let expected = if default == "false" { "" } else { default.trim_matches('"') };
        assert_eq!(told, expected, "{key} in a table of README");
    }
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let printed = text(print_config(&[], &[("BLAZR_PORT", ""), ("BLAZR_ALIAS", "")]));
    assert!(printed.contains("port = 8080 # default\n") && printed.contains("# alias is not set\n"), "{printed}");
}

#[test]
fn keys_of_the_file_do_not_show_in_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blazr.toml");
    std::fs::write(&path, "api_key = \"hidden\"\n").unwrap();
    let output = print_config(&["--config", path.to_str().unwrap(), "--", "more"], &[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && told.contains("more") && !told.contains("hidden"), "{told}");
}
