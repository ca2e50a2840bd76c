//! What the compiler does not check: who imports whom, and where `unsafe`, the environment and file maps may stand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules in the order in which they may import: each only from the lines above its own.
const LAYERS: [&[&str]; 8] = [
    &["error"],
    &["config", "files", "kernels", "metrics", "shutdown", "traces"],
    &["model", "sampling", "text"],
    &["checkpoint", "engine", "nano"],
    &["hub"],
    &["api"],
    &["cli"],
    &["main"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    here.chain(directories.iter().flat_map(|directory| rust_files(directory))).collect()
}

/// A source file's top module, and its text up to its tests.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&src).unwrap().to_owned();
        let module = relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("mod tests {").next().unwrap().to_owned();
        (module, relative, code)
    };
    rust_files(&src).into_iter().filter(|path| !path.ends_with("tests.rs")).map(read).collect()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules that follow `crate::` (or `blazr::`) anywhere in the code, one by one or in braces.
fn imports(code: &str) -> Vec<String> {
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let after = |marker: &str| -> Vec<String> {
        let tails = code.split(marker).skip(1).flat_map(|tail| match tail.strip_prefix('{') {
            Some(braced) => top_level(braced),
            None => vec![tail],
        });
        tails.map(|tail| tail.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()).collect()
    };
    [after("crate::"), after("blazr::")].concat()
}

/// The parts between the commas of an import's braces, without those of braces within.
fn top_level(braced: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in braced.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(braced[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn modules_import_only_what_stands_before_them() {
    let mut wrong = Vec::new();
    for (module, path, code) in sources() {
        if module == "lib" {
            continue;
        }
        let layer = layer_of(&module).unwrap_or_else(|| panic!("src/{}: give {module} a layer", path.display()));
        for import in imports(&code).into_iter().filter(|import| *import != module) {
            match layer_of(&import) {
                Some(other) if other < layer => {}
                _ => wrong.push(format!("src/{} imports {import}", path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_every_spelling() {
    let code = "use crate::error::Error;\nuse crate::{model::{Model, Step}, text};\n// crate::cli\nblazr::engine::x()";
    assert_eq!(imports(code), ["error", "model", "text", "engine"]);
}

/// Files whose code contains `needle`.
fn files_with(needle: &str) -> Vec<String> {
    let with = sources().into_iter().filter(|(_, _, code)| code.contains(needle));
    let mut files: Vec<String> = with.map(|(_, path, _)| path.to_string_lossy().into_owned()).collect();
    files.sort();
    files
}

#[test]
fn unsafe_stands_only_in_kernels_where_a_file_is_mapped_and_where_candle_is_told_its_threads() {
    let outside = sources().into_iter().filter(|(module, _, _)| module != "kernels");
    let counts = outside.map(|(_, path, code)| (path.to_string_lossy().into_owned(), code.matches("unsafe {").count()));
    let mut counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    counts.sort();
    // Mapping a file and giving its pages back; one environment variable.
    assert_eq!(counts, [("files.rs".into(), 2), ("main.rs".into(), 1)]);
}

#[test]
fn the_environment_is_read_nowhere_but_in_config_and_for_rust_log() {
    assert_eq!(files_with("env::var"), ["config/fault.rs", "config/hub.rs", "config/sources.rs", "main.rs"]);
    let (_, _, main) = sources().into_iter().find(|(module, _, _)| module == "main").unwrap();
    assert_eq!(main.matches("env::var").count(), main.matches("env::var(\"RUST_LOG\")").count());
}

/// The words of a text that are flags.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with("--") && !word.ends_with('-')).map(str::to_owned).collect()
}

#[test]
fn the_readme_names_every_flag_and_no_other() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## Commands").nth(1).unwrap().split("## Operation").next().unwrap();
    let help = |command: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_blazr")).args([command, "--help"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mut known =
        flags(&["generate", "serve", "healthcheck", "plan", "info", "bench", "pull", "list"].map(help).concat());
    known.remove("--help");
    assert_eq!(flags(section), known);
    for page in ["docs/server.md", "docs/checkpoints.md"] {
        let named = flags(&std::fs::read_to_string(root().join(page)).unwrap());
        assert!(!named.is_empty() && named.is_subset(&known), "{page} names {named:?}");
    }
}

/// A page's words between backticks, with the braces of routes as axum has them.
fn code_of(page: &str) -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join(page)).unwrap();
    page.split('`').skip(1).step_by(2).map(|code| code.replace("{id}", "{*id}")).collect()
}

#[test]
fn the_readme_has_every_route() {
    let source = std::fs::read_to_string(root().join("src/api/mod.rs")).unwrap();
    let known = code_of("README.md");
    let mut routes = 0;
    for route in source.split(".route(\"").skip(1) {
        let (path, handler) = route.split_once("\", ").unwrap();
        let method = handler.split('(').next().unwrap().to_uppercase();
        assert!(known.contains(&format!("{method} {path}")), "{method} {path} is not in the README");
        routes += 1;
    }
    assert_eq!(routes, 12);
}

#[test]
fn the_page_about_the_server_has_every_metric_and_no_other() {
    let is_metric = |word: &str| word.starts_with("blazr_") || word.starts_with("process_");
    let named = |page: &str| -> BTreeSet<String> { code_of(page).into_iter().filter(|code| is_metric(code)).collect() };
    let exposition = blazr::metrics::Exposition::install().unwrap().render();
    let exported = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE process_")?.split(' ').next());
    let own = blazr::metrics::ALL.iter().map(|metric| metric.name.to_owned());
    let known: BTreeSet<String> = own.chain(exported.map(|name| format!("process_{name}"))).collect();
    assert_eq!(named("docs/server.md"), known);
    assert!(named("README.md").is_subset(&known), "{:?}", named("README.md"));
}

#[test]
fn the_manual_has_every_error_code() {
    let manual = std::fs::read_to_string(root().join("docs/operation.md")).unwrap();
    let codes = ["src/api/error.rs", "src/api/extract.rs", "src/api/middleware.rs", "src/api/mod.rs"].map(|path| {
        let source = std::fs::read_to_string(root().join(path)).unwrap();
        let behind = |marker: &str| source.split(marker).skip(1).map(str::to_owned).collect::<Vec<_>>();
        let codes = [behind("Some(\""), behind("come_back(\"")].concat();
        let is_code = |tail: &String| tail.find("\".into()") != tail.find('"'); // else it is a parameter
        let codes = codes.into_iter().filter(is_code);
        codes.map(|tail| tail.split('"').next().unwrap().to_owned()).collect::<Vec<_>>()
    });
    let codes = codes.concat();
    assert!(codes.len() > 10, "{codes:?}");
    let of_balancers = ["docker/nginx/nginx.conf", "docker/haproxy/haproxy.cfg"].map(|path| {
        let config = std::fs::read_to_string(root().join(path)).unwrap();
        let codes: Vec<_> =
            config.split("\"code\":\"").skip(1).map(|tail| tail.split('"').next().unwrap().to_owned()).collect();
        assert!(!codes.is_empty(), "{path} answers nothing by itself");
        codes
    });
    for code in codes.into_iter().chain(of_balancers.concat()) {
        assert!(manual.contains(&format!("| `{code}` |")), "{code} is not in docs/operation.md");
    }
}

/// The functions that are compiled for each level of instructions, and those that are put into them.
fn vectorized(code: &str) -> Vec<String> {
    let starts = code.match_indices("vectorized! {\n").chain(code.match_indices("#[inline(always)]\n"));
    starts
        .map(|(start, _)| {
            let line = code[..start].rfind('\n').map_or(0, |end| end + 1);
            let indent = &code[line..start];
            let end = format!("\n{indent}}}\n");
            code[start..].split(&end).next().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn no_closure_is_given_away_where_a_loop_is_compiled_for_each_level() {
    // What `for_each` calls may be compiled by itself, without the level's instructions: then a multiplication with addition
    // is a call of a function: in the gate of a Mamba2 step that took 4 % of a token of granite-h-350m in q4_k.
    let mut found = 0;
    for (module, path, code) in sources() {
        if module == "kernels" {
            for body in vectorized(&code) {
                found += 1;
                assert!(!body.contains(".for_each("), "{}: {body}", path.display());
            }
        }
    }
    assert!(found > 20, "only {found} functions");
}
