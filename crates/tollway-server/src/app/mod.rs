//! The application layer: which route answers, with which typed arguments, and what a
//! client reads when something is wrong. It knows nothing of sockets and nothing of
//! Python, so every rule in it is tested by calling a function.
//!
//! ```
//! use http::{HeaderMap, Method};
//! use tollway_server::app::{Binder, Found, Kind, ParamSpec, Router, Source, Value};
//!
//! let mut router = Router::new();
//! router.insert(Method::GET, "/items/{item_id}", "shop.get_item", ()).unwrap();
//!
//! let Found::Route(found) = router.find(&Method::GET, "/items/42") else { panic!() };
//! let names = found.names();
//! let binder = Binder::new(vec![ParamSpec::new("item_id", Source::Path, Kind::Int)], names).unwrap();
//! let headers = HeaderMap::new();
//! let values = binder.bind(&found.params, None, &headers).unwrap();
//! assert_eq!(values.as_slice(), [Value::Int(42)]);
//! ```

mod answer;
mod bind;
mod calendar;
mod form;
mod kind;
mod multipart;
mod pairs;
mod problem;
mod router;

#[cfg(test)]
mod property_tests;

pub use answer::{
    AccessLog, Coding, Compression, Cors, CorsError, CorsSpec, Field, Finish, LogFormat, LogRule, LogSpec, LogTarget,
    Preflight, RequestId, RequestIds, Secure, Seen, fresh_id,
};
pub use bind::{BindError, Binder, FieldError, ParamSpec, Part, Source, Values};
pub use calendar::{Date, DateTime, Time};
pub use form::{FileRules, Form, FormError, FormFile, FormLimits};
pub use kind::{Kind, Value};
pub use pairs::{CookiePairs, QueryPairs, decode_form, decode_path};
pub use problem::{PROBLEM_JSON, Problem};
pub use router::{Found, Matched, PathParams, RouteError, Router, path_names};
