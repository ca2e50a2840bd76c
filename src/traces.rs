//! Traces: a span for each request and for each of its phases, told to a collector in
//! [OTLP](https://opentelemetry.io/docs/specs/otlp/). Elsewhere they are plain spans of `tracing`.

use std::collections::HashMap;
use std::str::FromStr;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use crate::error::{Error, Result};

/// Where collectors take traces, behind their address.
const ROUTE: &str = "/v1/traces";

/// What tells a collector of spans. To drop it is to tell the last ones.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Tells a collector.
    ///
    /// # Errors
    /// That is no address.
    pub fn told_to(Collector(endpoint): &Collector) -> Result<Self> {
        let address = endpoint.trim_end_matches('/').trim_end_matches(ROUTE);
        let exporter = SpanExporter::builder().with_http().with_endpoint(format!("{address}{ROUTE}")).build();
        let exporter = exporter.map_err(|error| Error::invalid("otlp_endpoint", format!("{endpoint}: {error}")))?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("blazr").with_attribute(version).build();
        Ok(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
    }

    /// What takes spans from `tracing`.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer().with_tracer(self.0.tracer("blazr"))
    }
}

/// Where a collector is, such as `http://localhost:4318`. There is no TLS to it.
#[derive(Clone, Debug)]
pub struct Collector(String);

impl FromStr for Collector {
    type Err = &'static str;

    fn from_str(endpoint: &str) -> Result<Self, Self::Err> {
        let is_plain = Url::parse(endpoint).is_ok_and(|url| {
            let is_named = !url.username().is_empty() || url.password().is_some();
            url.scheme() == "http" && url.has_host() && !is_named && url.query().is_none() && url.fragment().is_none()
        });
        let expected = "expected http://HOST:PORT of a collector, without a name, a query or a fragment";
        if is_plain { Ok(Self(endpoint.to_owned())) } else { Err(expected) }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!("the last spans were not told to --otlp-endpoint: {error}");
        }
    }
}

/// Puts a span below its caller's, as the header `traceparent` names it (<https://www.w3.org/TR/trace-context/>).
pub fn join(span: &Span, traceparent: &str) {
    let headers = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    // Where nobody takes spans, there is nothing to put.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
}

/// Says in a request's span what was asked and how it was answered, as
/// [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/http/http-spans/) has it.
pub fn describe(span: &Span, method: &'static str, route: &str, status: u16) {
    span.context().span().update_name(format!("{method} {route}"));
    span.set_attribute("http.request.method", method);
    span.set_attribute("http.route", route.to_owned());
    span.set_attribute("http.response.status_code", i64::from(status));
}

#[cfg(test)]
mod tests {
    use super::Collector;

    #[test]
    fn a_collector_is_at_a_plain_address() {
        let is_plain = |endpoint: &str| endpoint.parse::<Collector>().is_ok();
        assert!(["http://localhost:4318", "http://[::1]:4318/v1/traces", "http://otel/"].into_iter().all(is_plain));
        let wrong =
            ["", "localhost:4318", "ftp://h", "https://h", "http://user:secret@h", "http://h/?a", "http://h/#a"];
        assert!(!wrong.into_iter().any(is_plain));
    }
}
