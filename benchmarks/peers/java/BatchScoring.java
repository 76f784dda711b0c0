package churn;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.function.IntConsumer;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StateStoreContext;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.processor.internals.InternalProcessorContext;
import org.apache.kafka.streams.processor.internals.ProcessorNode;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.internals.AbstractStoreBuilder;
import org.apache.kafka.streams.state.internals.CacheFlushListener;
import org.apache.kafka.streams.state.internals.CachedStateStore;

/**
 * Scores events in batches, and forwards their predictions before each commit.
 *
 * <p>A call of XGBoost costs 110 microseconds for one row and 330 for a hundred, so scoring one event at a time would be
 * thirty times slower. A batch must be forwarded before the offsets of its events are committed. Kafka Streams' own record
 * caches have the same need, and the hook that they use is used here: a store that is a cache. It is an internal API.
 */
final class BatchScoring implements FixedKeyProcessor<byte[], byte[], byte[]> {
    private static final int LONGEST = 500;

    private final EventScorer scorer;
    private final IntConsumer report;
    private final List<FixedKeyRecord<byte[], byte[]>> waiting = new ArrayList<>(LONGEST);
    private InternalProcessorContext<byte[], byte[]> context;
    private ProcessorNode<?, ?, ?, ?> node;

    private BatchScoring(EventScorer scorer, IntConsumer report) {
        this.scorer = scorer;
        this.report = report;
    }

    /** Returns a supplier of processors. Each reports the number of events of each batch that it has forwarded. */
    static FixedKeyProcessorSupplier<byte[], byte[], byte[]> supplier(Path bundle, IntConsumer report) {
        return new FixedKeyProcessorSupplier<>() {
            @Override
            public FixedKeyProcessor<byte[], byte[], byte[]> get() {
                try {
                    return new BatchScoring(new EventScorer(bundle), report);
                } catch (Exception error) {
                    throw new IllegalStateException("The bundle in " + bundle + " cannot be read.", error);
                }
            }

            @Override
            public Set<StoreBuilder<?>> stores() {
                return Set.of(CommitHook.builder());
            }
        };
    }

    @Override
    @SuppressWarnings("unchecked")
    public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
        this.context = (InternalProcessorContext<byte[], byte[]>) context;
        this.node = this.context.currentNode();
        CommitHook hook = context.getStateStore(CommitHook.NAME);
        hook.beforeCommit = this::forward;
    }

    @Override
    public void process(FixedKeyRecord<byte[], byte[]> event) {
        waiting.add(event);
        if (waiting.size() == LONGEST) {
            forward();
        }
    }

    private void forward() {
        if (waiting.isEmpty()) {
            return;
        }
        List<byte[]> messages = scorer.messages(waiting.stream().map(FixedKeyRecord::value).toList());
        ProcessorNode<?, ?, ?, ?> previous = context.currentNode();
        context.setCurrentNode(node);
        try {
            for (int place = 0; place < messages.size(); place++) {
                context.forward(waiting.get(place).withValue(messages.get(place)));
            }
        } finally {
            context.setCurrentNode(previous);
        }
        report.accept(messages.size());
        waiting.clear();
    }

    /** A store without content, which Kafka Streams flushes before each commit because it is a cache. */
    private static final class CommitHook implements StateStore, CachedStateStore<byte[], byte[]> {
        static final String NAME = "before-commit";

        private Runnable beforeCommit = () -> {};
        private boolean open;

        static StoreBuilder<CommitHook> builder() {
            return new AbstractStoreBuilder<byte[], byte[], CommitHook>(NAME, null, null, Time.SYSTEM) {
                @Override
                public CommitHook build() {
                    return new CommitHook();
                }
            }.withLoggingDisabled();
        }

        @Override
        public void flushCache() {
            beforeCommit.run();
        }

        @Override
        public void clearCache() {}

        @Override
        public boolean setFlushListener(CacheFlushListener<byte[], byte[]> listener, boolean sendOldValues) {
            return false;
        }

        @Override
        public String name() {
            return NAME;
        }

        @Override
        public void init(StateStoreContext context, StateStore root) {
            context.register(root, (key, value) -> {});
            open = true;
        }

        @Override
        public void close() {
            open = false;
        }

        @Override
        public boolean persistent() {
            return false;
        }

        @Override
        public boolean isOpen() {
            return open;
        }
    }
}
