//! Answers every request with a small JSON document.
//!
//! ```text
//! cargo run --release -p tollway-server --example hello -- 127.0.0.1 8000
//! ```

use std::error::Error;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use tollway_server::{Body, Engine, Request, Response, Settings, bind};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

async fn hello(_request: Request) -> Response {
    let mut response = Response::new(Body::from(Bytes::from_static(b"{\"message\":\"hello\"}")));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = arguments.next().map_or(Ok(8000), |text| text.parse())?;
    let listener = bind(&host, port, false)?;
    println!("listening on http://{}", listener.local_addr()?);
    Engine::new(listener, hello, Settings::default())?.run()?;
    Ok(())
}
