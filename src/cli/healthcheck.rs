//! `blazr healthcheck`: whether a server answers, for health checks where there is no shell.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{AddressArgs, ConfigArgs, print};
use crate::error::{Error, Result};

/// Longer than an answer takes that waits for nothing.
const TIMEOUT: Duration = Duration::from_secs(5);

/// More of an answer is not shown.
const MOST_BYTES: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    _config: ConfigArgs,
    #[command(flatten)]
    address: AddressArgs,
    /// Ask for this route.
    #[arg(long, value_name = "ROUTE", default_value = "/health", value_parser = parse_route)]
    path: String,
}

fn parse_route(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("expected a route that begins with /".into()) }
}

pub(super) fn run(args: &HealthcheckArgs) -> Result<ExitCode> {
    let url = format!("http://{}:{}{}", reachable(&args.address.host), args.address.port, args.path);
    let failed = |error: ureq::Error| Error::Unsupported(format!("{url}: {error}"));
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None);
    let response = ureq::Agent::new_with_config(config.build()).get(&url).call().map_err(failed)?;
    let (status, mut body) = (response.status(), Vec::new());
    // What it says is told as far as it goes; whether it answers is in the status.
    let _ = response.into_body().into_reader().take(MOST_BYTES).read_to_end(&mut body);
    print(&format!("{status} {}\n", String::from_utf8_lossy(&body)))?;
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How a host that a server listens on is spelled in an address: one that stands for all of them is this machine.
fn reachable(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() && ip.is_ipv4() => Ipv4Addr::LOCALHOST.to_string(),
        Ok(ip) if ip.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_this_machine() {
        let hosts = ["0.0.0.0", "::", "::1", "10.0.0.1", "localhost"].map(reachable);
        assert_eq!(hosts, ["127.0.0.1", "[::1]", "[::1]", "10.0.0.1", "localhost"]);
    }
}
