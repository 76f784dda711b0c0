package churn;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.ToDoubleFunction;
import ml.dmlc.xgboost4j.java.Booster;
import ml.dmlc.xgboost4j.java.XGBoost;
import ml.dmlc.xgboost4j.java.XGBoostError;

/**
 * Turns events of the default customer schema into their published predictions, both JSON.
 *
 * <p>The bundle's parts decide everything: features, medians, categories, ranges, model, calibration and threshold. One
 * thread may use a scorer.
 */
public final class EventScorer {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final double MIN_PROBABILITY = 1e-7; // as in churn_platform/scoring/calibration.py

    private final List<ToDoubleFunction<JsonNode>> features = new ArrayList<>();
    private final Booster booster;
    private final JsonNode calibration;
    private final float threshold;

    /** Reads the bundle in a folder. */
    public EventScorer(Path bundle) throws IOException, XGBoostError {
        JsonNode manifest = read(bundle, "manifest.json");
        Map<String, ToDoubleFunction<JsonNode>> known = features(bundle);
        for (JsonNode name : manifest.get("features")) {
            features.add(known.get(name.asText()));
        }
        booster = XGBoost.loadModel(Files.readAllBytes(bundle.resolve("model.ubj")));
        booster.setParam("nthread", 1); // the callers have a thread for each partition
        calibration = Files.exists(bundle.resolve("calibration.json")) ? read(bundle, "calibration.json") : null;
        threshold = (float) manifest.get("threshold").asDouble();
    }

    /** Returns the messages of events, with the fields and the order of benchmarks/contenders/rows.py. */
    public List<byte[]> messages(List<byte[]> values) {
        try {
            List<JsonNode> events = new ArrayList<>(values.size());
            for (byte[] value : values) {
                events.add(JSON.readTree(value));
            }
            float[] risks = scores(events);
            String now = Instant.now().toString();
            List<byte[]> messages = new ArrayList<>(events.size());
            for (int place = 0; place < risks.length; place++) {
                messages.add(message(events.get(place), risks[place], now));
            }
            return messages;
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        } catch (XGBoostError error) {
            throw new IllegalStateException(error);
        }
    }

    private byte[] message(JsonNode event, float risk, String now) throws IOException {
        ByteArrayOutputStream message = new ByteArrayOutputStream(512);
        try (JsonGenerator json = JSON.createGenerator(message)) {
            json.writeStartObject();
            json.writeStringField("event_id", event.get("event_id").asText());
            json.writeNumberField("customer_id", event.get("CustomerId").asLong());
            json.writeNumberField("prediction", risk >= threshold ? 1 : 0);
            json.writeNumberField("probability", risk);
            json.writeNumberField("risk_score", risk);
            json.writeNumberField("model_version", 1);
            json.writeStringField("event_timestamp", event.get("event_timestamp").asText());
            json.writeStringField("predicted_at", now);
            json.writeStringField("geography", event.get("Geography").asText());
            json.writeStringField("gender", event.get("Gender").asText());
            json.writeFieldName("age");
            json.writeTree(event.get("Age"));
            json.writeFieldName("balance");
            json.writeTree(event.get("Balance"));
            json.writeEndObject();
        }
        return message.toByteArray();
    }

    private float[] scores(List<JsonNode> events) throws XGBoostError {
        int width = features.size();
        float[] rows = new float[events.size() * width];
        int cell = 0;
        for (JsonNode event : events) {
            for (ToDoubleFunction<JsonNode> feature : features) {
                rows[cell++] = (float) feature.applyAsDouble(event);
            }
        }
        float[][] probabilities = booster.inplace_predict(rows, events.size(), width, Float.NaN);
        float[] risks = new float[probabilities.length];
        for (int place = 0; place < risks.length; place++) {
            float probability = probabilities[place][0];
            risks[place] = calibration == null ? probability : (float) calibrated(probability);
        }
        return risks;
    }

    private double calibrated(double probability) {
        if (calibration.get("method").asText().equals("platt")) {
            double inside = Math.min(Math.max(probability, MIN_PROBABILITY), 1 - MIN_PROBABILITY);
            double odds = Math.log(inside) - Math.log1p(-inside);
            return 1 / (1 + Math.exp(-(calibration.get("slope").asDouble() * odds + calibration.get("intercept").asDouble())));
        }
        JsonNode scores = calibration.get("scores");
        JsonNode probabilities = calibration.get("probabilities");
        int above = 0;
        while (above < scores.size() && scores.get(above).asDouble() <= probability) {
            above++;
        }
        if (above == 0 || above == scores.size()) {
            return probabilities.get(above == 0 ? 0 : above - 1).asDouble();
        }
        double low = scores.get(above - 1).asDouble();
        double start = probabilities.get(above - 1).asDouble();
        double slope = (probabilities.get(above).asDouble() - start) / (scores.get(above).asDouble() - low);
        return start + slope * (probability - low);
    }

    /** Returns feature name -> its value for an event, of every feature that the bundle's parts define. */
    private static Map<String, ToDoubleFunction<JsonNode>> features(Path bundle) throws IOException {
        JsonNode imputer = read(bundle, "imputer.json");
        Map<String, ToDoubleFunction<JsonNode>> found = new HashMap<>();
        for (JsonNode column : read(bundle, "schema.json").get("columns")) {
            ToDoubleFunction<JsonNode> number = number(column, imputer.get("medians"));
            found.put(column.get("name").asText(), number);
            if (column.has("bands")) {
                found.put(column.get("bands_feature").asText(), event -> band(number.applyAsDouble(event), column.get("bands")));
            }
        }
        JsonNode scaler = read(bundle, "scaler.json");
        for (int place = 0; place < scaler.get("columns_to_scale").size(); place++) {
            String name = scaler.get("columns_to_scale").get(place).asText();
            ToDoubleFunction<JsonNode> number = found.get(name);
            double minimum = scaler.get("data_min").get(place).asDouble();
            double range = scaler.get("data_max").get(place).asDouble() - minimum;
            found.put(name, event -> (number.applyAsDouble(event) - minimum) / range);
        }
        JsonNode encoder = read(bundle, "encoder.json");
        encoder.get("categories").fields().forEachRemaining(entry -> {
            String name = entry.getKey();
            for (int place = 0; place < entry.getValue().size(); place++) {
                String category = entry.getValue().get(place).asText();
                String feature = encoder.get("binary_columns").get(name).get(place).asText();
                found.put(feature, event -> category(event, name, imputer.get("modes")).equals(category) ? 1 : 0);
            }
        });
        return found;
    }

    private static ToDoubleFunction<JsonNode> number(JsonNode column, JsonNode medians) {
        String name = column.get("name").asText();
        boolean single = column.path("single_precision").asBoolean();
        double median = medians.path(name).asDouble(Double.NaN);
        return event -> {
            if (!event.hasNonNull(name)) {
                return median;
            }
            double value = event.get(name).asDouble();
            return single ? (float) value : value;
        };
    }

    private static String category(JsonNode event, String name, JsonNode modes) {
        return event.hasNonNull(name) ? event.get(name).asText() : modes.path(name).asText();
    }

    private static int band(double value, JsonNode bands) {
        int number = 0;
        while (!bands.get(number).get(1).isNull() && value > bands.get(number).get(1).asDouble()) {
            number++;
        }
        return number;
    }

    private static JsonNode read(Path bundle, String part) throws IOException {
        return JSON.readTree(bundle.resolve(part).toFile());
    }
}
