"""The client's side."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from stockapp.task import load_data, train

app = ClientApp()


@app.train()
def train_fn(msg: Message, context: Context) -> Message:
    """Train the received model on this client's data."""
    partition_id = int(context.node_config["partition-id"])
    weights, loss = train(msg.content["arrays"].to_numpy_ndarrays()[0], partition_id)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(load_data(partition_id)[1])})
    content = RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics})
    return Message(content=content, reply_to=msg)
