package churn;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Kafka Streams: events are scored by XGBoost4J and published, exactly once. No rows are written to PostgreSQL.
 *
 * <p>Its argument is the task of benchmarks/contenders/task.py as JSON.
 */
public final class StreamsContender {
    private StreamsContender() {}

    /** Runs until the backlog is processed, or without end if the task says to follow the topic. */
    public static void main(String[] arguments) throws Exception {
        JsonNode task = new ObjectMapper().readTree(arguments[0]);
        long wanted = task.get("follow").asBoolean() ? Long.MAX_VALUE : task.get("events").asLong();
        Path bundle = Path.of(task.get("bundle").asText());
        CountDownLatch finished = new CountDownLatch(1);
        AtomicLong done = new AtomicLong();

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(task.get("events_topic").asText(), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .processValues(BatchScoring.supplier(bundle, count -> {
                    if (done.addAndGet(count) == wanted) {
                        finished.countDown();
                    }
                }))
                .to(task.get("predictions_topic").asText(), Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));

        KafkaStreams streams = new KafkaStreams(builder.build(), settings(task));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            finished.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        finished.await();
        boolean failed = done.get() < wanted;
        streams.close(Duration.ofSeconds(60)); // commits
        System.exit(failed ? 1 : 0);
    }

    private static Properties settings(JsonNode task) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, task.get("group").asText());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, task.get("brokers").asText());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, task.get("folder").asText());
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Math.round(task.get("linger").asDouble() * 1000));
        // Its clients have threads of their own: on two cores, two or three of these were no faster.
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        // The default of 1,000 stops fetching too often while a backlog is drained.
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 * 1024);
        return settings;
    }
}
