package churn;

import java.nio.file.Path;
import java.util.List;
import org.apache.spark.sql.api.java.UDF2;

/** A function for Spark SQL: the value of an event and the bundle's folder become the value of its prediction. */
public final class SparkScore implements UDF2<byte[], String, byte[]> {
    // A scorer holds native memory, so it cannot be sent to a task: each thread of a task has its own.
    private static final ThreadLocal<EventScorer> SCORER = new ThreadLocal<>();

    @Override
    public byte[] call(byte[] value, String bundle) throws Exception {
        if (SCORER.get() == null) {
            SCORER.set(new EventScorer(Path.of(bundle)));
        }
        return SCORER.get().messages(List.of(value)).get(0);
    }
}
