"""Spark's side of spark_als.py: reads one request per line, answers one line each. Needs only pyspark.

The single argument is a JSON object of settings. A request is a JSON object with the options of one fit;
an answer is a line that starts with ``ANSWER ``, as Spark prints to the same stream.
"""

import json
import platform
import sys
import time
from typing import Any

from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql

__all__ = ["main"]


def answer(values: dict[str, Any]) -> None:
    """Tell the parent."""
    print("ANSWER " + json.dumps(values), flush=True)


def open_session(settings: dict[str, Any]) -> SparkSession:
    """Start Spark in this machine."""
    session = (
        SparkSession.builder.master(f"local[{settings['threads']}]")
        .appName("spark_als")
        .config("spark.driver.memory", settings["memory"])
        .config("spark.driver.extraJavaOptions", settings["java_options"])
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.local.dir", settings["scratch"])
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def read_ratings(session: SparkSession, folder: str) -> DataFrame:
    """Read the training interactions into Spark's cache; the rating is the weight, 1 where there is none."""
    table = session.read.parquet(folder)
    rating = sql.col("weight") if "weight" in table.columns else sql.lit(1.0).cast("float")
    return table.select("user_row", "item_row", rating.alias("rating")).cache()


def native_library(session: SparkSession, name: str) -> str:
    """Tell whether Spark found a native BLAS or LAPACK, as it does on its own where one is installed."""
    package = getattr(session.sparkContext._jvm.dev.ludovic.netlib, name.lower())
    try:
        return str(getattr(package, f"Native{name}").getInstance().getClass().getName())
    except Exception:  # noqa: BLE001 - raised through the bridge when the library is missing
        return "none: Java kernels"


def fit(session: SparkSession, ratings: DataFrame, request: dict[str, Any]) -> dict[str, Any]:
    """Fit once, with Spark's defaults for all that the request does not name; ``fit`` computes all factors."""
    context = session.sparkContext
    context._jvm.System.gc()  # what an earlier fit has left behind is not this one's cost
    kept = {int(key) for key in context._jsc.getPersistentRDDs()}
    als = ALS(
        implicitPrefs=True,
        userCol="user_row",
        itemCol="item_row",
        ratingCol="rating",
        rank=request["rank"],
        maxIter=request["iterations"],
        alpha=request["alpha"],
        regParam=request["reg"],
        numUserBlocks=request["blocks"],
        numItemBlocks=request["blocks"],
        seed=request["seed"],
    )
    started = time.perf_counter()
    model = als.fit(ratings)
    seconds = time.perf_counter() - started
    written_s = 0.0
    if request.get("output"):
        started = time.perf_counter()
        model.userFactors.write.mode("overwrite").parquet(request["output"] + "/users")
        model.itemFactors.write.mode("overwrite").parquet(request["output"] + "/items")
        written_s = time.perf_counter() - started
    for key, rdd in context._jsc.getPersistentRDDs().items():
        if int(key) not in kept:
            rdd.unpersist()
    return {"seconds": seconds, "written_s": written_s}


def main() -> None:
    """Start, answer what there is, and work off the requests."""
    settings = json.loads(sys.argv[1])
    started = time.perf_counter()
    session = open_session(settings)
    started_s = time.perf_counter() - started
    started = time.perf_counter()
    ratings = read_ratings(session, settings["train"])
    n_interactions = ratings.count()
    java = session.sparkContext._jvm.System.getProperty
    answer(
        {
            "start_s": started_s,
            "read_s": time.perf_counter() - started,
            "n_interactions": n_interactions,
            "blas": native_library(session, "BLAS"),
            "lapack": native_library(session, "LAPACK"),
            "spark_versions": {
                "spark": session.version,
                "java": java("java.version"),
                "java_vm": java("java.vm.name"),
                "python": platform.python_version(),
            },
        }
    )
    for line in sys.stdin:
        try:
            answer(fit(session, ratings, json.loads(line)))
        except Exception as error:  # noqa: BLE001 - whatever Spark raises, the parent reports
            answer({"error": f"{type(error).__name__}: {error}"[:2000]})
    session.stop()


if __name__ == "__main__":
    main()
