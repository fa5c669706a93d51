//! Refusals as problem details (RFC 9457).

use http::{Response, StatusCode, header};
use serde_json::json;
use tollway::{Decision, NEVER, Policy, Reason, StoreError};

use crate::headers::Item;

const PROBLEM_JSON: &str = "application/problem+json";
/// The problem type of the IETF rate limit draft.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// A refusal in one sentence for people.
pub fn describe<P: AsRef<Policy>>(decision: &Decision, policies: &[P]) -> String {
    match decision.reason {
        Reason::Denied => return "This client has no access.".to_owned(),
        Reason::Exempt => return "This request is not counted.".to_owned(),
        _ => {}
    }
    let limit = (policies.get(usize::from(decision.charge)))
        .and_then(|policy| policy.as_ref().limits().get(usize::from(decision.index)))
        .map_or_else(|| "the limit".to_owned(), |limit| format!("the limit of {}", limit.rate()));
    match decision.retry_after_secs() {
        None if decision.retry_after == NEVER => {
            format!("This request costs {}, which is more than {limit} ever holds.", decision.cost)
        }
        None => format!("Within {limit}: {} left.", decision.remaining),
        Some(1) => format!("You have reached {limit}. Try again in 1 second."),
        Some(seconds) => format!("You have reached {limit}. Try again in {seconds} seconds."),
    }
}

/// The status of a refusal: 403 for a client that an access list turns away, else 429.
pub fn refusal_status(decision: &Decision) -> StatusCode {
    if decision.reason == Reason::Denied { StatusCode::FORBIDDEN } else { StatusCode::TOO_MANY_REQUESTS }
}

/// The body of a refusal. It does not say which entry turns a client away: that is for the log.
pub fn problem<P: AsRef<Policy>>(decision: &Decision, policies: &[P]) -> Vec<u8> {
    if decision.reason == Reason::Denied {
        let detail = describe(decision, policies);
        let body = json!({"type": "about:blank", "title": "Forbidden", "status": 403, "detail": detail});
        return body.to_string().into_bytes();
    }
    let violated: Vec<_> = (policies.get(usize::from(decision.charge)))
        .map(|policy| Item { policy: policy.as_ref(), index: usize::from(decision.index) }.to_string())
        .into_iter()
        .collect();
    let mut body = json!({
        "type": QUOTA_EXCEEDED,
        "title": "Too many requests",
        "status": 429,
        "detail": describe(decision, policies),
        "violated-policies": violated,
    });
    if decision.retry_after != NEVER {
        body["retry_after_ms"] = decision.retry_after.div_ceil(1_000_000).into();
    }
    body.to_string().into_bytes()
}

/// The 503 for a request that could not be counted because the store is away.
///
/// The body does not say which store: that is for the log.
pub fn store_unavailable<B: From<Vec<u8>>>(_: &StoreError) -> Response<B> {
    let body = json!({
        "type": "about:blank",
        "title": "Service unavailable",
        "status": 503,
        "detail": "Requests cannot be counted at the moment. Try again in a second.",
    });
    respond(StatusCode::SERVICE_UNAVAILABLE, body.to_string().into_bytes(), Some(1))
}

pub(crate) fn respond<B: From<Vec<u8>>>(status: StatusCode, body: Vec<u8>, retry_after: Option<u64>) -> Response<B> {
    let mut response = Response::new(B::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PROBLEM_JSON));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
