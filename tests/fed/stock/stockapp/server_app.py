"""The server's side."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from stockapp.task import FEATURES

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    arrays = ArrayRecord([np.zeros(FEATURES)])
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(
        grid=grid, initial_arrays=arrays, num_rounds=int(context.run_config["num-server-rounds"])
    )
    print("weights:", result.arrays.to_numpy_ndarrays()[0].round(2).tolist())
