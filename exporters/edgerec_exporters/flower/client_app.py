"""The gateway's side: a ClientApp that answers a round with the gateway's deltas."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from edgerec_exporters.flower import refuse_telemetry
from edgerec_exporters.flower.messages import HELD, asked, with_ids, with_rows, with_total
from edgerec_exporters.flower.rows import opened

refuse_telemetry()
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Rows of one array float32 (n, d), one per validated delta, and their ids; in split mode the sum of the shares
    that were asked for. What goes wrong becomes Flower's error reply: the round goes on without this gateway.
    """
    ask = asked(message.content)
    with opened(context.node_config) as deltas:
        answer = with_total(deltas.total(ask), ask.ids) if ask.split else with_rows(deltas.claim(ask))
    return Message(answer, reply_to=message)


@app.query(HELD.partition(".")[2])
def held(message: Message, context: Context) -> Message:
    """Before `train`: whose deltas, or shares of them, this gateway holds for the round."""
    ask = asked(message.content)
    with opened(context.node_config) as deltas:
        answer = with_ids(deltas.held(ask))
    return Message(answer, reply_to=message)
