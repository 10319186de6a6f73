//! The same scenarios on the simulated servers and on the real ones, and the product on the simulation.

#[cfg(target_os = "linux")]
mod counts;
mod kubernetes;
mod metadata;
mod product;

/// Makes two tests of each scenario, one with a simulated server and one with the real one.
macro_rules! on_both {
    ($($scenario:ident),+ $(,)?) => {
        mod simulated {
            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$scenario(super::TestEnv::simulated().await).await;
                }
            )+
        }
        mod real {
            $(
                #[tokio::test]
                #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
                async fn $scenario() {
                    super::$scenario(super::TestEnv::real().await).await;
                }
            )+
        }
    };
}
use on_both;
