//! Ends the wait before the next attempt to connect when an operator asks for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The wait after a failure that no request shortens: requests in a loop cause at most one attempt
/// in this time.
const MIN_RETRY_WAIT: Duration = Duration::from_secs(2);

/// Requests for an attempt to connect at once. Clones address the same session.
#[derive(Clone, Debug, Default)]
pub struct RetryRequests(Arc<Notify>);

impl RetryRequests {
    /// Ends the current wait, but not before it has lasted 2 s. Has no effect if the session does not
    /// wait.
    pub fn request(&self) {
        // Unlike `notify_one`, this does not affect a later wait.
        self.0.notify_waiters();
    }

    /// Waits for `delay`, or less if a request comes in.
    pub(super) async fn wait(&self, delay: Duration) {
        let start = Instant::now();
        let requested = self.0.notified();
        tokio::select! {
            biased;
            () = sleep_until(start + delay) => {}
            () = requested => sleep_until(start + delay.min(MIN_RETRY_WAIT)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a wait of 30 s takes if requests come in at these times, in seconds.
    async fn wait_with_requests(at: &[u64]) -> u64 {
        let requests = RetryRequests::default();
        let start = Instant::now();
        let send = async {
            for seconds in at {
                sleep_until(start + Duration::from_secs(*seconds)).await;
                requests.request();
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = requests.wait(Duration::from_secs(30)) => start.elapsed().as_secs(),
            () = send => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_the_wait_but_requests_in_a_loop_cause_no_retry_storm() {
        for (requests, waited) in
            [(&[][..], 30), (&[7], 7), (&[0], 2), (&[0, 1], 2), (&[2, 3], 2), (&[31], 30)]
        {
            assert_eq!(wait_with_requests(requests).await, waited, "{requests:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_outside_of_a_wait_does_not_shorten_the_next_one() {
        let requests = RetryRequests::default();
        requests.request();
        let start = Instant::now();
        requests.wait(Duration::from_secs(30)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(30));
    }
}
