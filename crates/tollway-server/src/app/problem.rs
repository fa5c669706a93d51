//! Answers to requests that no handler answers, in the format of RFC 9457.

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Map, Value as Json, json};

use super::bind::{FieldError, Part};

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem as RFC 9457 describes it.
///
/// ```
/// let response = tollway_server::app::Problem::not_found("/nowhere").response();
/// assert_eq!(response.status(), 404);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Json>,
    /// Boxed: a result with a problem in it should stay small.
    header: Option<Box<(http::HeaderName, HeaderValue)>>,
}

impl Problem {
    /// A problem of the generic type: its title is the status phrase.
    pub fn new(status: StatusCode, detail: &str) -> Problem {
        let mut members = Map::new();
        members.insert("type".to_owned(), json!("about:blank"));
        members.insert("title".to_owned(), json!(title(status)));
        members.insert("status".to_owned(), json!(status.as_u16()));
        members.insert("detail".to_owned(), json!(detail));
        Problem { status, members, header: None }
    }

    /// 404: no route has this path.
    pub fn not_found(path: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no route has this path").with("instance", json!(path))
    }

    /// 405: the path exists for other methods.
    pub fn method_not_allowed(method: &str, allow: HeaderValue) -> Problem {
        let others = allow.to_str().unwrap_or("").to_owned();
        let detail = format!("{method} is not allowed here; allowed are {others}");
        let mut problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, &detail);
        problem.header = Some(Box::new((ALLOW, allow)));
        problem
    }

    /// 413: the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Problem {
        let detail = format!("the body is larger than the {limit} bytes allowed here");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, &detail)
    }

    /// 415: the body is of another media type than those in `accepted`.
    pub fn unsupported(sent: &str, accepted: &'static str) -> Problem {
        let shown: String = sent.chars().take(80).collect();
        let what = if sent.is_empty() { "a body that names none".to_owned() } else { shown };
        let detail = format!("this route reads {}, not {what}", accepted.replace(", ", " or "));
        let mut problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, &detail);
        problem.header = Some(Box::new((ACCEPT, HeaderValue::from_static(accepted))));
        problem
    }

    /// 422: parameters that cannot be read, all of them.
    pub fn validation(errors: &[FieldError]) -> Problem {
        let detail = match errors.len() {
            1 => "1 parameter is not valid".to_owned(),
            count => format!("{count} parameters are not valid"),
        };
        let list = errors.iter().map(field_json).collect();
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, &detail).with("errors", Json::Array(list))
    }

    /// 503: the server has no room; the client may try again in `seconds`.
    pub fn busy(detail: &str, seconds: u32) -> Problem {
        let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.header = Some(Box::new((RETRY_AFTER, HeaderValue::from(seconds))));
        problem
    }

    /// 500: the handler failed. Says nothing about how.
    pub fn internal() -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed to answer this request")
    }

    /// The same problem with one more member.
    pub fn with(mut self, name: &str, value: Json) -> Problem {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// The response to send.
    pub fn response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(Json::Object(self.members).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(header) = self.header {
            let (name, value) = *header;
            headers.insert(name, value);
        }
        response
    }
}

/// The phrase of the current standard where it changed after the `http` crate's table.
fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

fn field_json(error: &FieldError) -> Json {
    let loc: Vec<Json> = error
        .loc
        .iter()
        .map(|part| match part {
            Part::Name(name) => json!(name),
            Part::Index(index) => json!(index),
        })
        .collect();
    json!({"type": error.code, "loc": loc, "msg": error.message})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(response: &Response<Bytes>) -> Json {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn a_405_carries_allow_in_header_and_text() {
        let allow = HeaderValue::from_static("GET, HEAD");
        let response = Problem::method_not_allowed("POST", allow).response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
        assert_eq!(read(&response)["detail"], "POST is not allowed here; allowed are GET, HEAD");
    }

    #[test]
    fn members_stand_in_the_order_in_which_people_read_them() {
        let response = Problem::not_found("/a").response();
        let start = br#"{"type":"about:blank","title":"Not Found","status":404,"detail":"#;
        assert!(response.body().starts_with(start), "{:?}", response.body());
    }

    #[test]
    fn a_422_lists_every_error() {
        let error = |index| FieldError {
            code: "int_parsing",
            loc: vec![Part::Name("query".into()), Part::Name("ids".into()), Part::Index(index)],
            message: "no".into(),
        };
        let body = read(&Problem::validation(&[error(0), error(2)]).response());
        assert_eq!(body["title"], "Unprocessable Content");
        assert_eq!(body["status"], 422);
        assert_eq!(body["errors"][1], json!({"type": "int_parsing", "loc": ["query", "ids", 2], "msg": "no"}));
    }

    #[test]
    fn text_from_the_client_is_escaped() {
        let body = read(&Problem::not_found("/\"<\u{1}").response());
        assert_eq!(body["instance"], "/\"<\u{1}");
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        let response = Problem::busy("the queue is full", 2).response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(Problem::too_large(10).response().status(), 413);
        assert_eq!(Problem::internal().response().status(), 500);
    }
}
