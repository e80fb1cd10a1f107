//! What a hub asks of whoever delivers its queue: another hub may have taken over what is in it, and
//! would deliver that at the same time.

use std::future::pending;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::config::{HUB_HOLD, HUB_ORDERS};

/// What to do with the link to the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing is to be delivered.
    Hold,
    /// What is queued may be delivered.
    Deliver,
    /// Another hub has delivered meanwhile: a new link asks what the server has.
    Renew,
}

/// An order, answered when it is carried out.
#[derive(Debug)]
pub struct Ordered {
    pub order: Order,
    /// Nobody waits for it where it is [`None`].
    pub done: Option<oneshot::Sender<()>>,
}

/// The end that gives orders.
#[derive(Clone, Debug)]
pub struct Commander(mpsc::Sender<Ordered>);

/// The end that receives them.
#[derive(Debug)]
pub struct Orders {
    inbox: mpsc::Receiver<Ordered>,
    /// When to deliver although nobody has said so: NATS may be away for long, and the dashboard not.
    deliver_at: Option<Instant>,
}

/// The two ends; nothing is to be delivered at first.
pub fn orders() -> (Commander, Orders) {
    let (sender, inbox) = mpsc::channel(HUB_ORDERS);
    (Commander(sender), Orders { inbox, deliver_at: Some(Instant::now() + HUB_HOLD) })
}

impl Commander {
    /// Returns when the order is carried out, or nobody is there to do it.
    pub(super) async fn give(&self, order: Order) {
        let (done, carried_out) = oneshot::channel();
        if self.0.send(Ordered { order, done: Some(done) }).await.is_ok() {
            let _ = carried_out.await;
        }
    }
}

impl Orders {
    /// The next order; to deliver, at the latest [`HUB_HOLD`] after it was to be held. Safe to cancel.
    pub async fn next(&mut self) -> Ordered {
        let received = match self.deliver_at {
            Some(at) => timeout_at(at, self.inbox.recv()).await,
            None => Ok(self.inbox.recv().await),
        };
        let ordered = match received {
            Ok(Some(ordered)) => ordered,
            // The hub has ended, as the queue is closed.
            Ok(None) => pending().await,
            Err(_) => Ordered { order: Order::Deliver, done: None },
        };
        self.deliver_at = match ordered.order {
            Order::Hold => self.deliver_at.or_else(|| Some(Instant::now() + HUB_HOLD)),
            Order::Deliver => None,
            Order::Renew => self.deliver_at,
        };
        ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_delivered_at_last() {
        let (commander, mut orders) = orders();
        let started = Instant::now();
        assert_eq!(orders.next().await.order, Order::Deliver);
        assert_eq!(started.elapsed(), HUB_HOLD);
        let hub = commander.clone();
        let asking = tokio::spawn(async move {
            hub.give(Order::Hold).await;
            hub.give(Order::Renew).await;
        });
        for order in [Order::Hold, Order::Renew, Order::Deliver] {
            assert_eq!(orders.next().await.order, order);
        }
        assert_eq!(started.elapsed(), 2 * HUB_HOLD);
        asking.await.unwrap();
        drop(commander);
    }
}
