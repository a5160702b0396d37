import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.TextMapGetter;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.io.IOException;
import java.io.PrintWriter;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.Collection;
import java.util.List;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.MDC;

/**
 * A shop: takes orders over HTTP, keeps them in a database (H2 in memory behind HikariCP) and has them paid on other threads. The ids of
 * the current span are in each line that it logs; the spans go to java.spans (trace, span, parent or -, start and end in ns, name).
 *
 * <p>usage: java -Ddirectory=DIRECTORY -Dlogback.configurationFile=logback.xml -cp 'LIBRARIES/*' Shop.java DIRECTORY ORDERS
 */
public final class Shop {
  private static final Logger WEB = LoggerFactory.getLogger("org.example.shop.web.OrderController");
  private static final Logger ORDERS = LoggerFactory.getLogger("org.example.shop.order.OrderService");
  private static final Logger STOCK = LoggerFactory.getLogger("org.example.shop.stock.StockRepository");
  private static final Logger PAYMENTS = LoggerFactory.getLogger("org.example.shop.payment.PaymentClient");
  private static final Logger JOBS = LoggerFactory.getLogger("org.example.shop.jobs.RestockJob");
  private static final List<String> ITEMS = List.of("lamp", "chair", "rope", "kettle", "tent", "stove", "map", "compass");
  private static final int THREADS = 4;

  private final Random random = new Random();
  private final Tracer tracer;
  private final HikariDataSource database;
  private final ExecutorService payments = Executors.newFixedThreadPool(THREADS, named("payment"));

  private Shop(Tracer tracer) throws SQLException {
    this.tracer = tracer;
    var config = new HikariConfig();
    config.setPoolName("shop-db");
    config.setJdbcUrl("jdbc:h2:mem:shop;DB_CLOSE_DELAY=-1");
    config.setMaximumPoolSize(THREADS);
    database = new HikariDataSource(config);
    try (var connection = database.getConnection(); var statement = connection.createStatement()) {
      statement.execute("CREATE TABLE stock (item VARCHAR PRIMARY KEY, left_over INT NOT NULL CHECK (left_over >= 0))");
      statement.execute("CREATE TABLE orders (id VARCHAR PRIMARY KEY, customer INT, item VARCHAR, amount INT, cents INT)");
      for (var item : ITEMS) statement.execute("INSERT INTO stock VALUES ('" + item + "', 400)");
    }
  }

  public static void main(String[] arguments) throws Exception {
    var directory = Path.of(arguments[0]);
    int orders = Integer.parseInt(arguments[1]);
    var out = new PrintWriter(directory.resolve("java.spans").toFile());
    var provider = SdkTracerProvider.builder().addSpanProcessor(SimpleSpanProcessor.create(new Lines(out))).build();
    var shop = new Shop(provider.get("org.example.shop"));
    var server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    var exec = Executors.newFixedThreadPool(THREADS, named("http-exec"));
    server.setExecutor(exec);
    server.createContext("/orders", shop::order);
    server.start();
    var jobs = Executors.newSingleThreadScheduledExecutor(named("scheduling"));
    jobs.scheduleAtFixedRate(shop::restock, 100, 100, TimeUnit.MILLISECONDS);
    var clients = Executors.newFixedThreadPool(THREADS, named("client"));
    for (int n = 0; n < THREADS; n++) {
      clients.submit(() -> shop.client(server.getAddress().getPort(), orders / THREADS));
    }
    clients.shutdown();
    boolean done = clients.awaitTermination(5, TimeUnit.MINUTES);
    jobs.shutdownNow();
    server.stop(0);
    exec.shutdownNow();
    shop.payments.shutdownNow();
    shop.database.close();
    provider.close();
    out.close();
    System.exit(done ? 0 : 1);
  }

  private void client(int port, int orders) {
    var http = HttpClient.newHttpClient();
    for (int n = 0; n < orders; n++) {
      var item = random.nextInt(100) == 0 ? "anvil" : ITEMS.get(random.nextInt(ITEMS.size()));
      var path = "/orders/%s?customer=%d&amount=%d".formatted(item, random.nextInt(3000), 1 + random.nextInt(6));
      var uri = URI.create("http://127.0.0.1:" + port + path);
      try {
        inSpan("checkout", () -> {
          var request = HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers.noBody());
          W3CTraceContextPropagator.getInstance().inject(Context.current(), request, HttpRequest.Builder::header);
          return http.send(request.build(), HttpResponse.BodyHandlers.discarding()).statusCode();
        });
      } catch (Exception e) {
        WEB.error("client gave up on {}", uri, e);
      }
    }
  }

  private void order(HttpExchange exchange) throws IOException {
    var parent = W3CTraceContextPropagator.getInstance().extract(Context.root(), exchange, new Headers());
    try (var within = parent.makeCurrent()) {
      exchange.sendResponseHeaders(inSpan("POST /orders/{item}", () -> answer(exchange)), -1);
    } catch (Exception e) {
      throw new IOException(e);
    } finally {
      exchange.close();
    }
  }

  /** The status for a request. */
  private int answer(HttpExchange exchange) {
    long start = System.nanoTime();
    var path = exchange.getRequestURI().getPath();
    var query = exchange.getRequestURI().getQuery();
    WEB.debug("POST \"{}\", parameters={{}}, client={}", path, query, exchange.getRemoteAddress());
    int status;
    try {
      var parts = query.split("[=&]");
      place(path.substring("/orders/".length()), Integer.parseInt(parts[1]), Integer.parseInt(parts[3]));
      status = 201;
    } catch (IllegalArgumentException e) {
      WEB.warn("Resolved [{}]", e.toString());
      status = 404;
    } catch (Exception e) {
      WEB.error("order on {} failed after {} ms", path, (System.nanoTime() - start) / 1_000_000, e);
      status = e instanceof SQLException ? 409 : 503;
    }
    WEB.info("Completed {} {} in {} us", status, path, (System.nanoTime() - start) / 1000);
    return status;
  }

  private void place(String item, int customer, int amount) throws Exception {
    int left = inSpan("SELECT stock", () -> left(item));
    if (left < amount * 10) STOCK.warn("stock of {} is low: {} left, {} ordered", item, left, amount);
    int cents = 199 + random.nextInt(20_000);
    // Now and then a client sends an order a second time.
    var id = random.nextInt(50) == 0 ? "ord-00000001" : "ord-%08x".formatted(random.nextInt());
    var price = "%d.%02d EUR".formatted(cents / 100, cents % 100);
    ORDERS.info("Placing order {} of customer {}: {} x {} at {}", id, customer, amount, item, price);
    inSpan("INSERT orders", () -> update("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", id, customer, item, amount, cents));
    inSpan("UPDATE stock", () -> update("UPDATE stock SET left_over = left_over - ? WHERE item = ?", amount, item));
    var receipt = pay(id, cents * amount);
    ORDERS.info("Order {} is paid, receipt={}", id, receipt);
  }

  private int left(String item) throws SQLException {
    var sql = "SELECT left_over FROM stock WHERE item = ?";
    STOCK.debug("Executing prepared SQL statement [{}] with [{}]", sql, item);
    try (var connection = database.getConnection(); var statement = connection.prepareStatement(sql)) {
      statement.setString(1, item);
      var rows = statement.executeQuery();
      if (!rows.next()) throw new IllegalArgumentException("no such item: " + item);
      return rows.getInt(1);
    }
  }

  private int update(String sql, Object... values) throws SQLException {
    STOCK.debug("Executing prepared SQL update [{}] with {}", sql, List.of(values));
    try (Connection connection = database.getConnection(); var statement = connection.prepareStatement(sql)) {
      for (int n = 0; n < values.length; n++) statement.setObject(n + 1, values[n]);
      int rows = statement.executeUpdate();
      STOCK.debug("SQL update affected {} rows", rows);
      return rows;
    }
  }

  private String pay(String order, int cents) throws Exception {
    for (int attempt = 1; ; attempt++) {
      int number = attempt;
      Callable<String> charge = () -> inSpan("charge", () -> charge(order, cents, number));
      var answer = payments.submit(Context.current().wrap(charge));
      try {
        return answer.get(1, TimeUnit.SECONDS);
      } catch (ExecutionException e) {
        if (attempt == 3) throw new IllegalStateException("payment of " + order + " failed " + attempt + " times", e.getCause());
        PAYMENTS.warn("Attempt {} to charge {} failed, retrying: {}", attempt, order, e.getCause().getMessage());
      }
    }
  }

  /** A provider of payments that is slow at times and fails at others. */
  private String charge(String order, int cents, int attempt) throws Exception {
    long start = System.nanoTime();
    TimeUnit.MICROSECONDS.sleep((long) (-500 * Math.log(1 - random.nextDouble())));
    if (random.nextInt(attempt == 1 ? 25 : 3) == 0) {
      throw new TimeoutException("no answer from pay-%d.example.org:443 within %d ms".formatted(random.nextInt(4), 100 * attempt));
    }
    var receipt = UUID.randomUUID().toString();
    long took = (System.nanoTime() - start) / 1000;
    PAYMENTS.info("charged {} cents for {} in {} us, attempt={} receipt={}", cents, order, took, attempt, receipt);
    return receipt;
  }

  private void restock() {
    try {
      inSpan("restock", () -> {
        int rows = update("UPDATE stock SET left_over = left_over + ? WHERE left_over < ?", 300, 60);
        var pool = database.getHikariPoolMXBean();
        var heap = Runtime.getRuntime();
        JOBS.info("restocked {} items; pool total={} active={} idle={} waiting={}; heap {} of {} KiB", rows, pool.getTotalConnections(),
            pool.getActiveConnections(), pool.getIdleConnections(), pool.getThreadsAwaitingConnection(),
            (heap.totalMemory() - heap.freeMemory()) >> 10, heap.totalMemory() >> 10);
        return rows;
      });
    } catch (Exception e) {
      JOBS.error("Unexpected error occurred in scheduled task", e);
    }
  }

  /** Runs work in a span below the current one, with its ids where the lines take them from. */
  private <T> T inSpan(String name, Callable<T> work) throws Exception {
    var outer = MDC.getCopyOfContextMap();
    var span = tracer.spanBuilder(name).startSpan();
    try (var within = span.makeCurrent()) {
      MDC.put("trace_id", span.getSpanContext().getTraceId());
      MDC.put("span_id", span.getSpanContext().getSpanId());
      return work.call();
    } finally {
      span.end();
      if (outer == null) MDC.clear();
      else MDC.setContextMap(outer);
    }
  }

  private static ThreadFactory named(String name) {
    var count = new AtomicInteger();
    return work -> new Thread(work, name + "-" + count.incrementAndGet());
  }

  /** Where the context of a request stands. */
  private record Headers() implements TextMapGetter<HttpExchange> {
    @Override
    public Iterable<String> keys(HttpExchange exchange) {
      return exchange.getRequestHeaders().keySet();
    }

    @Override
    public String get(HttpExchange exchange, String key) {
      return exchange.getRequestHeaders().getFirst(key);
    }
  }

  /** Spans as lines. */
  private record Lines(PrintWriter out) implements SpanExporter {
    @Override
    public synchronized CompletableResultCode export(Collection<SpanData> spans) {
      for (var span : spans) {
        var parent = span.getParentSpanContext().isValid() ? span.getParentSpanId() : "-";
        var times = span.getStartEpochNanos() + " " + span.getEndEpochNanos();
        out.println(span.getTraceId() + " " + span.getSpanId() + " " + parent + " " + times + " " + span.getName());
      }
      return CompletableResultCode.ofSuccess();
    }

    @Override
    public CompletableResultCode flush() {
      return CompletableResultCode.ofSuccess();
    }

    @Override
    public CompletableResultCode shutdown() {
      return flush();
    }
  }
}
