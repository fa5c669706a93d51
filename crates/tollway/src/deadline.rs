//! Waiting, but not for ever.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use futures_timer::Delay;

/// What `future` gives, unless the deadline comes first.
pub(crate) async fn before<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut delay = Delay::new(deadline.saturating_duration_since(Instant::now()));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        Pin::new(&mut delay).poll(context).map(|()| None)
    })
    .await
}
