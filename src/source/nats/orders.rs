//! The delivery gate: lets a hub pause the delivery of its queue while another hub may have taken
//! over the same entries, so that they are not delivered twice.

use std::future::pending;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::config::{HUB_HOLD, HUB_ORDERS};

/// An instruction to the delivery to the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Pauses the delivery.
    Hold,
    /// Resumes the delivery of the queue.
    Deliver,
    /// Reconnects, to ask the server what it has: another hub has delivered meanwhile.
    Renew,
}

/// An order, confirmed through `done` once it is carried out.
#[derive(Debug)]
pub struct Ordered {
    pub order: Order,
    /// [`None`] if no caller waits for the confirmation.
    pub done: Option<oneshot::Sender<()>>,
}

/// The sending end, used by the hub.
#[derive(Clone, Debug)]
pub struct Commander(mpsc::Sender<Ordered>);

/// The receiving end, used by the delivery.
#[derive(Debug)]
pub struct Orders {
    inbox: mpsc::Receiver<Ordered>,
    /// When to resume without an order, because NATS may be down for long while the dashboard is
    /// up.
    deliver_at: Option<Instant>,
}

/// Creates both ends of the gate. The delivery starts paused.
pub fn orders() -> (Commander, Orders) {
    let (sender, inbox) = mpsc::channel(HUB_ORDERS);
    (Commander(sender), Orders { inbox, deliver_at: Some(Instant::now() + HUB_HOLD) })
}

impl Commander {
    /// Sends an order and waits until it is carried out or the receiving end is gone.
    pub(super) async fn give(&self, order: Order) {
        let (done, carried_out) = oneshot::channel();
        if self.0.send(Ordered { order, done: Some(done) }).await.is_ok() {
            let _ = carried_out.await;
        }
    }
}

impl Orders {
    /// The next order. Returns [`Order::Deliver`] at the latest [`HUB_HOLD`] after the delivery was
    /// paused. Safe to cancel.
    pub async fn next(&mut self) -> Ordered {
        let received = match self.deliver_at {
            Some(at) => timeout_at(at, self.inbox.recv()).await,
            None => Ok(self.inbox.recv().await),
        };
        let ordered = match received {
            Ok(Some(ordered)) => ordered,
            // The hub has ended because the queue is closed.
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
