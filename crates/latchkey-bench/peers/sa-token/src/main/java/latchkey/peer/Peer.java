package latchkey.peer;

import cn.dev33.satoken.exception.NotLoginException;
import cn.dev33.satoken.stp.StpUtil;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.web.servlet.context.ServletWebServerInitializedEvent;
import org.springframework.context.event.EventListener;
import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;

/** A peer of {@code make peers}: Sa-Token on Spring Boot, with its sessions in Redis and one login for each user. */
@SpringBootApplication
@RestController
public class Peer {
    public static void main(String[] arguments) {
        SpringApplication.run(Peer.class, arguments);
    }

    @EventListener
    void started(ServletWebServerInitializedEvent event) {
        System.out.println("Sa-Token listens on 127.0.0.1:" + event.getWebServer().getPort());
    }

    /** Logs users in, whom the benchmark names by number, and returns one token for each, one per line. */
    @GetMapping(path = "/login", produces = "text/plain")
    String login(@RequestParam int first, @RequestParam int count) {
        return IntStream.range(first, first + count)
                .mapToObj(number -> StpUtil.createLoginSession("user%08d".formatted(number)))
                .collect(Collectors.joining("\n"));
    }

    @GetMapping("/validate")
    Map<String, Object> validate() {
        StpUtil.checkLogin();
        return Map.of("user", StpUtil.getLoginIdAsString());
    }

    @ExceptionHandler(NotLoginException.class)
    @ResponseStatus(HttpStatus.UNAUTHORIZED)
    Map<String, String> rejected(NotLoginException rejection) {
        return Map.of("reason", rejection.getMessage());
    }
}
